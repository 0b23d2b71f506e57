"""The default path decomposes nothing and keeps nothing on disk but small facts."""

from pathlib import Path

import torch

from lora_transfer.core.cache import SubspaceCache
from lora_transfer.core.plan import BY_MEASURE, TransferSettings
from lora_transfer.core.resources import CPU, Resources
from lora_transfer.core.similarity import Measure
from lora_transfer.nodes.host.adapter.adapter import adapter_from_file
from lora_transfer.nodes.host.base.from_file import base_from_file
from lora_transfer.nodes.host.compare import CompareResult, CompareSettings, compare_bases
from lora_transfer.nodes.host.project import ProjectResult, project
from tests.host.conftest import SmallPair


def _run(pair: SmallPair, folder: Path, measure: Measure, method: str) -> tuple[CompareResult, ProjectResult, int]:
    """The results, and the number of decomposed layers in the cache."""
    source, target = base_from_file(pair.source, "source"), base_from_file(pair.target, "target")
    adapter = adapter_from_file(pair.lora, "lora")

    def using() -> Resources:  # as each node makes its own
        return Resources.on(CPU, 1, SubspaceCache(folder), lambda *_: None)

    compared = compare_bases(source, target, adapter, CompareSettings(measure=measure), using(), lambda _: None)
    projected = project(compared.comparison, adapter, TransferSettings(method), using())
    return compared, projected, len(list(folder.glob("*/*.safetensors")))


def test_the_default_keeps_every_layer_of_the_comparison_by_subspaces_and_no_cache(
    pair: SmallPair, tmp_path: Path
) -> None:
    assert CompareSettings().measure == "weight_cosine"
    assert TransferSettings().threshold == BY_MEASURE
    _, by_default, entries = _run(pair, tmp_path / "a", CompareSettings().measure, TransferSettings().method)
    compared, by_subspace, more_entries = _run(pair, tmp_path / "b", "subspace", TransferSettings().method)
    assert entries == 0
    assert more_entries > 0
    assert not any("Kept" in line.text for line in by_default.lines())
    assert any("Kept" in line.text and str(tmp_path / "b") in line.text for line in compared.lines())
    first, second = by_default.adapter.state_dict(), by_subspace.adapter.state_dict()
    assert second.keys() <= first.keys()
    assert all(torch.allclose(first[key].float(), value.float(), atol=1e-4) for key, value in second.items())
    assert by_default.report.settings["threshold"] == 0.15
    assert by_subspace.report.settings["threshold"] == 0.8


def test_a_method_of_subspaces_gets_them_by_any_measure_and_says_what_it_kept(pair: SmallPair, tmp_path: Path) -> None:
    compared, projected, entries = _run(pair, tmp_path, "weight_cosine", "rotate")
    assert entries > 0
    assert not any("Kept" in line.text for line in compared.lines())
    assert any("Kept" in line.text for line in projected.lines())
