"""A LoKr of a megabyte can be a change of full rank of every layer: its exact factors would be as large as a base."""

import torch
from torch import Tensor

from lora_transfer.nodes.host.adapter.adapter import Adapter
from lora_transfer.nodes.host.adapter.read import AdapterOnBase, read_adapter
from lora_transfer.nodes.host.base.from_file import base_from_header
from tests.host.families import header_of

SDXL = base_from_header(header_of("SDXL"), "SDXL", "header")
LINEAR = [name for name in SDXL.own_layers() if len(SDXL.layers[name].weight.shape) == 2]


def placed(tensors: dict[str, Tensor]) -> AdapterOnBase:
    return read_adapter(Adapter("made", "here", {}, tensors=tensors), SDXL)


def lokr(layers: list[str]) -> dict[str, Tensor]:
    """Two full matrices for each layer, of about its square root."""
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        rows, columns = SDXL.layers[layer].weight.shape
        tensors[f"diffusion_model.{layer}.lokr_w1"] = torch.ones(16, 16)
        tensors[f"diffusion_model.{layer}.lokr_w2"] = torch.ones(rows // 16, columns // 16)
    return tensors


def test_a_lokr_of_a_whole_model_is_cut_and_told() -> None:
    found = placed(lokr(LINEAR))
    assert len(found.modules) == len(LINEAR)
    assert not any(module.exact for module in found.modules)
    assert not found.factored
    (note,) = found.notes
    assert note.startswith("its exact factors would take ")
    assert "are cut to dense_rank" in note


def test_a_lokr_of_some_layers_stays_exact() -> None:
    found = placed(lokr(LINEAR[:20]))
    assert all(module.exact for module in found.modules)
    assert not found.notes


def test_a_lora_of_a_high_rank_stays_exact_beside_a_lokr_of_a_whole_model() -> None:
    layer = LINEAR[-1]
    rows, columns = SDXL.layers[layer].weight.shape
    own = {
        f"diffusion_model.{layer}.lora_up.weight": torch.ones(rows, 512),
        f"diffusion_model.{layer}.lora_down.weight": torch.ones(512, columns),
    }
    found = placed(lokr(LINEAR[:-1]) | own)
    assert [module.layer for module in found.modules if module.exact] == [layer]
