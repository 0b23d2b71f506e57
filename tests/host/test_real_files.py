"""Real files are transferred by the plain copy, saved and read again: the change is that of the file's own formula."""

from pathlib import Path

import pytest
import torch

from lora_transfer.core.drift import WeightFigures
from lora_transfer.core.files import write_new
from lora_transfer.core.layers import LayerPair
from lora_transfer.core.plan import TransferSettings, plan_transfer
from lora_transfer.core.similarity import Comparison, LayerSimilarity
from lora_transfer.core.subspace import RankRule
from lora_transfer.core.transfer import transfer
from lora_transfer.nodes.host.adapter.adapter import adapter_from_file
from lora_transfer.nodes.host.adapter.read import read_adapter
from lora_transfer.nodes.host.adapter.save import cast_for_file
from lora_transfer.nodes.host.adapter.write import SPELLINGS, to_state_dict
from lora_transfer.nodes.host.base.from_file import base_from_header
from lora_transfer.nodes.host.base.from_model import HostBase
from tests.host.families import header_of
from tests.host.formulas import delta_of
from tests.host.test_families import REAL, needs_shared

MODULES = 24  # of each file, spread over its depth: a LoKr is stored at a rank of hundreds


def compared_by_nothing(base: HostBase, layers: list[str]) -> Comparison[HostBase]:
    """A comparison of a base with itself of which the plain copy needs no figure."""
    figures = LayerSimilarity(WeightFigures(1.0, 0.0, (1.0, 1.0)))
    pairs = {layer: (LayerPair(base.layers[layer], base.layers[layer], "itself"), figures) for layer in layers}
    return Comparison(base, base, pairs, {}, RankRule("fraction", 0.5), "subspace")


@needs_shared
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_a_real_file_is_copied_to_a_saved_file_of_the_same_change(path: Path, tmp_path: Path) -> None:
    family = "SD21" if "sd2__" in path.name else "SD15"
    base = base_from_header(header_of(family, True), family, "header")
    adapter = adapter_from_file(path, path.name)
    tensors = adapter.state_dict()
    placed = read_adapter(adapter, base)
    modules = placed.modules[:: max(1, len(placed.modules) // MODULES)]
    comparison = compared_by_nothing(base, [module.layer for module in modules])
    plan = plan_transfer(comparison, modules, TransferSettings("copy", threshold=0.0))
    moved = transfer(comparison, plan, placed.deltas)
    spelling = list(SPELLINGS)[REAL.index(path) % len(SPELLINGS)]
    written = to_state_dict(moved.deltas, placed.scales, base, spelling)
    saved = write_new(tmp_path, "real", cast_for_file(written, adapter, "float32"), {})
    again = read_adapter(adapter_from_file(saved, "again"), base)
    assert not again.unread
    assert len(again.modules) == len(modules)
    for module in modules:
        expected = delta_of(module.keys, tensors)
        found = again.deltas[module.layer].to(dtype=torch.float64).dense()
        assert float((found - expected).norm()) <= 1e-6 * float(expected.norm()), module.layer
