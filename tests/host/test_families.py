"""Full-size architectures by their headers, real adapter files and the keys of others that are not at hand."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lora_transfer.core.files import TensorFile, open_tensor_file
from lora_transfer.nodes.host.adapter.adapter import Adapter, adapter_from_file
from lora_transfer.nodes.host.adapter.read import AdapterOnBase, read_adapter
from lora_transfer.nodes.host.base.from_file import base_from_header
from lora_transfer.nodes.host.base.from_model import HostBase
from tests.conftest import ROOT
from tests.host.families import FAMILIES, clip_g_in_sdxl, header_of
from tests.host.formulas import delta_of

SHARED = ROOT.parent / "shared" / "data"
REAL = sorted((SHARED / "loras").glob("*"))
DUMPS = sorted((SHARED / "key_dumps").glob("*.json"))
needs_shared = pytest.mark.skipif(not REAL, reason="the project's shared data are not beside this clone")


def base_of(family: str, text_encoder: bool = False) -> HostBase:
    return base_from_header(header_of(family, text_encoder), family, "header")


def assert_every_key_is_accounted_for(placed: AdapterOnBase, keys: set[str]) -> None:
    found = [
        *(key for one in placed.modules for key in one.keys),
        *(key for one in placed.vectors for key in one.keys),
        *(key for one in placed.skipped for key in one.keys),
        *placed.unread,
    ]
    assert sorted(found) == sorted(keys)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_of_a_full_size_model_is_a_layer_once(family: str) -> None:
    header = header_of(family)
    base = base_from_header(header, family, "header")
    stored = {key.removeprefix("model."): one.shape for key, one in header.tensors.items()}
    matrices = {key: shape for key, shape in stored.items() if key.endswith(".weight") and len(shape) > 1}
    rows: dict[str, int] = {}
    for name in base.own_layers():
        weight = base.layers[name].weight
        rows[weight.key] = rows.get(weight.key, 0) + weight.shape[0]
        assert weight.shape[1:] == matrices[weight.key][1:]
    assert rows == {key: shape[0] for key, shape in matrices.items()}


def test_the_text_encoder_of_a_checkpoint_is_read_with_it() -> None:
    base = base_of("SD15", text_encoder=True)
    weight = base.layers["clip_l.transformer.text_model.encoder.layers.3.self_attn.k_proj"].weight
    assert weight.key == "clip_l.transformer.text_model.encoder.layers.3.self_attn.k_proj.weight"
    assert weight.shape == (768, 768)


def test_a_fused_text_encoder_of_sdxl_is_read_in_rows(tmp_path: Path, generator: torch.Generator) -> None:
    unet = header_of("SDXL")
    fused = "conditioner.embedders.1.model.transformer.resblocks.5.attn.in_proj_weight"
    weight = torch.randn(3840, 1280, generator=generator)
    save_file({fused: weight}, tmp_path / "fused.safetensors")
    stored = open_tensor_file(tmp_path / "fused.safetensors")
    header = TensorFile(stored.path, {**unet.tensors, **clip_g_in_sdxl(), **stored.tensors}, {})
    base = base_from_header(header, "SDXL", "header")
    block = "clip_g.transformer.text_model.encoder.layers.5"
    for index, role in enumerate(("q_proj", "k_proj", "v_proj")):
        layer = base.layers[f"{block}.self_attn.{role}"]
        assert layer.weight.shape == (1280, 1280)
        assert torch.equal(base.read(layer), weight[1280 * index : 1280 * (index + 1)])
    assert base.layers[f"{block}.mlp.fc1"].weight.shape == (5120, 1280)
    assert all(base.layers[name].text_encoder == name.startswith("clip_g") for name in base.layers)


@needs_shared
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_a_real_file_is_read_to_the_last_key_and_means_what_it_says(path: Path) -> None:
    base = base_of("SD21" if "sd2__" in path.name else "SD15", text_encoder=True)
    adapter = adapter_from_file(path, path.name)
    tensors = adapter.state_dict()
    placed = read_adapter(adapter, base)
    assert_every_key_is_accounted_for(placed, set(tensors))
    assert all(key.startswith("<s") for key in placed.unread)
    assert not placed.skipped
    assert len(placed.modules) >= 48
    for module in placed.modules:
        expected = delta_of(module.keys, tensors)
        found = placed.deltas[module.layer].dense().double()
        assert float((found - expected).norm()) <= 1e-6 * float(expected.norm()), module.layer


@needs_shared
@pytest.mark.parametrize("path", DUMPS, ids=lambda path: path.stem)
def test_the_keys_of_a_real_file_resolve_on_the_full_size_model(path: Path) -> None:
    shapes = json.loads(path.read_text())
    tensors = {
        key: torch.ones(shape) if not shape else torch.empty(shape, device="meta") for key, shape in shapes.items()
    }
    base = base_of("Anima" if "anima" in path.name else "Flux dev")
    placed = read_adapter(Adapter(path.stem, "dump", {}, tensors=tensors), base)
    assert_every_key_is_accounted_for(placed, set(tensors))
    assert all("text encoder" in reason for reason in placed.unread.values())
    assert {one.layer: one.widened for one in placed.modules if one.widened} == (
        {"img_in": (3072, 128)} if "control" in path.name else {}
    )
    # These dumps are abridged and give some layers widths that the model does not have.
    abridged = {"anima_lora_kohya": 3, "flux_lokr_bfl": 5}
    assert len(placed.skipped) == abridged.get(path.stem, 0)
    assert all("to fit the layer's" in one.reason for one in placed.skipped)
