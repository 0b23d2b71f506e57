"""Apply LoRA changes a model by what Project LoRA would transfer of the same file, and tells where ComfyUI differs."""

from functools import cache
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.sd
import pytest
import torch
from torch import Tensor

from lora_transfer.nodes.host.adapter.adapter import Adapter
from lora_transfer.nodes.host.adapter.apply import apply
from lora_transfer.nodes.host.adapter.read import read_adapter
from lora_transfer.nodes.host.base.from_model import base_from_model
from lora_transfer.nodes.host.base.names import layer_name, parse_target
from tests.host.small_families import write_small
from tests.host.test_row_order import ENTRIES, HOST_IGNORES_ORDER, KINDS

SMALL = [one for one in ENTRIES if one[0] in ("Flux dev", "SD3 medium")]
SWAPPED = "transformer.norm_out.linear"
PLAIN = "transformer.transformer_blocks.0.ff.net.2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@cache
def model_of(folder: Path, family: str) -> Any:
    path = write_small(folder / f"{family}.safetensors", family, 1, torch.float32)
    return comfy.sd.load_diffusion_model(str(path), {"dtype": torch.float32})


def change_of(model: Any, patched: Any, key: str) -> Tensor:
    """What the patches do to a parameter, in float32."""
    weight = comfy.model_patcher.get_key_weight(model.model, key)[0].float()
    return comfy.lora.calculate_weight(patched.patches.get(key, []), weight.clone(), key) - weight


def assert_as_projected(model: Any, adapter: Adapter) -> str:
    """Apply and Project change the same parameters by the same values. Gives Apply's summary."""
    base = base_from_model(model)
    placed, applied = read_adapter(adapter, base), apply(adapter, model, None, 1.0, 0.0)
    right: dict[str, Tensor] = {}
    for layer in placed.layers():
        weight, delta = base.layers[layer].weight, placed.deltas[layer].dense()
        whole = right.setdefault(
            weight.key, torch.zeros(comfy.utils.get_attr(model.model, weight.key).shape).flatten(1)
        )
        whole[slice(None) if weight.rows is None else weight.rows.as_slice] += delta
    for vector in placed.vectors:
        before = comfy.model_patcher.get_key_weight(model.model, vector.parameter)[0].float()
        right[vector.parameter] = vector.values - before if vector.kind == "set" else vector.values
    assert applied.model.patches.keys() == right.keys()
    for key, change in right.items():
        limit = 2e-5 * change.norm() + 1e-6 * comfy.utils.get_attr(model.model, key).norm()  # a difference of float32
        assert (change_of(model, applied.model, key).reshape(change.shape) - change).norm() <= limit, key
    assert set(applied.not_applied) == {*placed.unread, *(key for one in placed.skipped for key in one.keys)}
    return applied.summary()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("family", "entry"), SMALL)
def test_every_kind_on_every_kind_of_entry_is_applied_as_it_is_transferred(
    folder: Path, family: str, entry: str, kind: str, generator: torch.Generator
) -> None:
    model, module = model_of(folder, family), ENTRIES[family, entry]
    base = base_from_model(model)
    target = base.key_map[module]
    rows, columns = base.layers[layer_name(parse_target(target)[0])].weight.matrix_shape
    rows = rows if parse_target(target)[1] is None else parse_target(target)[1].length

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.1

    tensors = {f"{module}.{end}": value for part in KINDS[kind] for end, value in part(rows, columns, noise).items()}
    summary = assert_as_projected(model, Adapter("made", "here", {}, tensors=tensors))
    differs = entry.startswith("other order") and kind in HOST_IGNORES_ORDER
    assert ("differs from ComfyUI's own loader" in summary) == differs


def pair(module: str, rows: int, columns: int, up: str = ".lora_B.weight", down: str = ".lora_A.weight") -> Any:
    return {module + up: torch.ones(rows, 2), module + down: torch.ones(2, columns)}


def shape_of(model: Any, module: str) -> tuple[int, int]:
    base = base_from_model(model)
    return base.layers[layer_name(base.key_map[module])].weight.matrix_shape


METADATA = {
    "PEFT's settings": {"lora_adapter_metadata": '{"transformer.lora_alpha": 8, "transformer.r": 2}'},
    "a plain entry of the header": {"lora_alpha": "8"},
}


@pytest.mark.parametrize("said", METADATA)
def test_a_scale_in_the_metadata_is_applied_where_comfyui_reads_the_names_too(folder: Path, said: str) -> None:
    model = model_of(folder, "Flux dev")
    tensors = pair(PLAIN, *shape_of(model, PLAIN))
    summary = assert_as_projected(model, Adapter("made", "here", METADATA[said], tensors=tensors))
    assert summary == (
        "all 2 keys applied; differs from ComfyUI's own loader in 1 module: it ignores the scale in the file's metadata"
    )


def test_a_scale_in_the_metadata_that_says_nothing_new_is_not_told(folder: Path) -> None:
    model = model_of(folder, "Flux dev")
    tensors = pair(PLAIN, *shape_of(model, PLAIN))
    assert assert_as_projected(model, Adapter("made", "here", {"lora_alpha": "2"}, tensors=tensors)) == (
        "all 2 keys applied"
    )


@pytest.mark.parametrize("end", [".diff_b", ".lora_magnitude_vector"])
def test_what_comfyui_drops_is_applied_to_swapped_rows_and_told(folder: Path, end: str) -> None:
    model = model_of(folder, "Flux dev")
    rows, columns = shape_of(model, SWAPPED)
    tensors = {**pair(SWAPPED, rows, columns), SWAPPED + end: torch.arange(float(rows)) + 1}
    summary = assert_as_projected(model, Adapter("made", "here", {}, tensors=tensors))
    assert summary.startswith("all 3 keys applied; differs from ComfyUI's own loader in 1 module: ")


def test_a_bias_of_another_length_is_not_applied_and_told(folder: Path) -> None:
    model = model_of(folder, "Flux dev")
    tensors = {**pair(PLAIN, *shape_of(model, PLAIN)), f"{PLAIN}.diff_b": torch.ones(3)}
    summary = assert_as_projected(model, Adapter("made", "here", {}, tensors=tensors))
    assert summary.startswith("2 of 3 keys applied; not applied: 1 (1: it has shape [3], the base's parameter")


@pytest.mark.parametrize("first", ["diffusion_model.double_blocks.0.img_mlp.2", PLAIN])
def test_of_two_names_for_one_layer_both_take_that_which_comfyui_takes(folder: Path, first: str) -> None:
    model = model_of(folder, "Flux dev")
    shape = shape_of(model, PLAIN)
    names = sorted([PLAIN, "diffusion_model.double_blocks.0.img_mlp.2"], key=lambda name: name != first)
    tensors: dict[str, Tensor] = {}
    for index, name in enumerate(names):
        tensors |= pair(name, *shape, ".lora_up.weight", ".lora_down.weight")
        tensors[f"{name}.alpha"] = torch.tensor(index + 1.0)
    assert_as_projected(model, Adapter("made", "here", {}, tensors=tensors))
    applied = apply(Adapter("made", "here", {}, tensors=tensors), model, None, 1.0, 0.0)
    theirs, _ = comfy.sd.load_lora_for_models(model, None, dict(tensors), 1.0, 0.0)
    key = "diffusion_model.double_blocks.0.img_mlp.2.weight"
    assert torch.equal(change_of(model, applied.model, key), change_of(model, theirs, key))
