"""Changes of parameters that are no weight of a layer: biases, norms and tables, read, transferred and saved."""

from functools import cache

import comfy.lora
import pytest
import torch
from torch import Tensor

from lora_transfer.core.errors import InvalidSetting
from lora_transfer.core.vectors import plan_vectors
from lora_transfer.nodes.host.adapter.adapter import Adapter
from lora_transfer.nodes.host.adapter.read import AdapterOnBase, read_adapter
from lora_transfer.nodes.host.adapter.save import note_left_out, respell
from lora_transfer.nodes.host.adapter.write import SPELLINGS, to_state_dict
from lora_transfer.nodes.host.base.from_file import base_from_header
from lora_transfer.nodes.host.base.from_model import HostBase
from tests.host.families import header_of

MODULATION = "diffusion_model.blocks.3.modulation"


@cache
def base_of(family: str) -> HostBase:
    return base_from_header(header_of(family), family, "header")


def read_on(base: HostBase, tensors: dict[str, Tensor]) -> AdapterOnBase:
    placed = read_adapter(Adapter("made", "here", {}, tensors=tensors), base)
    parts = (placed.modules, placed.vectors, placed.skipped)
    assert sorted([*(key for part in parts for one in part for key in one.keys), *placed.unread]) == sorted(tensors)
    return placed


def a_lora(module: str, m: int, n: int) -> dict[str, Tensor]:
    return {f"{module}.lora_up.weight": torch.ones(m, 2), f"{module}.lora_down.weight": torch.ones(2, n)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_biases_of_slices_in_any_precision_are_put_together(dtype: torch.dtype) -> None:
    tensors: dict[str, Tensor] = {}
    for index, role in enumerate("qkv"):
        module = f"transformer.transformer_blocks.0.attn.to_{role}"
        tensors |= a_lora(module, 3072, 3072) | {f"{module}.diff_b": torch.full((3072,), index + 1.0)}
    placed = read_on(base_of("Flux dev"), {key: value.to(dtype) for key, value in tensors.items()})

    (vector,) = placed.vectors

    assert vector.values.tolist() == [1.0] * 3072 + [2.0] * 3072 + [3.0] * 3072


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_bias_in_float8_on_rows_of_another_order_is_put_in_order(dtype: torch.dtype) -> None:
    module = "transformer.norm_out.linear"
    values = torch.cat([torch.full((3072,), 1.0), torch.full((3072,), 2.0)])
    placed = read_on(base_of("Flux dev"), {f"{module}.diff_b": values.to(dtype)})

    (vector,) = placed.vectors

    assert vector.values.tolist() == [2.0] * 3072 + [1.0] * 3072


TABLES = {
    ("Wan 2.1 1.3B", f"{MODULATION}.diff"): MODULATION,
    ("Wan 2.1 1.3B", "diffusion_model.head.modulation.diff"): "diffusion_model.head.modulation",
    ("Wan 2.1 1.3B", f"{MODULATION}.set_weight"): MODULATION,
    ("Wan 2.1 1.3B", "diffusion_model.blocks.3.diff_m"): MODULATION,
    ("LTXV", "diffusion_model.scale_shift_table.diff"): "diffusion_model.scale_shift_table",
    ("PixArt Sigma", "diffusion_model.blocks.0.scale_shift_table.diff"): "diffusion_model.blocks.0.scale_shift_table",
    ("SD3 medium", "diffusion_model.pos_embed.diff"): "diffusion_model.pos_embed",
}


@pytest.mark.parametrize(("family", "key"), TABLES)
def test_a_table_is_changed_as_comfyui_changes_it(family: str, key: str, generator: torch.Generator) -> None:
    base, parameter = base_of(family), TABLES[family, key]
    values = torch.randn(base.parameters[parameter], generator=generator)

    (vector,) = read_on(base, {key: values}).vectors

    assert (vector.parameter, vector.kind) == (parameter, "set" if key.endswith("set_weight") else "diff")
    assert torch.equal(vector.values, values)
    written = to_state_dict({}, {}, base, vectors=(vector,))
    (patch,) = comfy.lora.load_lora(written, {parameter: parameter}, log_missing=False).values()
    before = torch.randn(values.shape, generator=generator)
    after = comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], before.clone(), parameter)
    assert torch.equal(after, values if vector.kind == "set" else before + values)
    (again,) = read_on(base, written).vectors
    assert torch.equal(again.values, values)


def test_a_table_goes_to_a_target_that_has_it_in_the_same_shape_and_is_listed_otherwise() -> None:
    small, large = base_of("Wan 2.1 1.3B"), base_of("Wan 2.2 14B")
    vectors = read_on(small, {f"{MODULATION}.diff": torch.ones(1, 6, 1536)}).vectors

    copied, skipped = plan_vectors(vectors, small.parameters, "the small one")
    assert [one.parameter for one in copied] == [MODULATION]
    assert not skipped

    copied, skipped = plan_vectors(vectors, large.parameters, "the large one")
    assert not copied
    assert [one.keys for one in skipped] == [(f"{MODULATION}.diff",)]
    assert skipped[0].reason == "a parameter that is not a weight: the large one has it with shape [1, 6, 5120]"


def test_a_table_of_another_shape_than_the_bases_is_skipped_as_comfyui_skips_it() -> None:
    tensors = a_lora("diffusion_model.blocks.0.self_attn.q", 1536, 1536) | {f"{MODULATION}.diff": torch.ones(6, 1536)}

    placed = read_on(base_of("Wan 2.1 1.3B"), tensors)

    (skipped,) = placed.skipped
    assert skipped.reason == "it has shape [6, 1536], the base's parameter [1, 6, 1536]"


# A square layer and its width, and another parameter and its shape.
WITH_PARAMETERS = {
    "SDXL": ("input_blocks.4.1.transformer_blocks.0.attn1.to_q", 640, "input_blocks.4.0.in_layers.0.w_norm", (320,)),
    "SD15": ("input_blocks.1.1.transformer_blocks.0.attn1.to_q", 320, "time_embed.0.diff_b", (1280,)),
    "Flux dev": ("double_blocks.0.img_attn.proj", 3072, "double_blocks.0.img_attn.qkv.diff_b", (9216,)),
    "Wan 2.1 1.3B": ("blocks.0.self_attn.q", 1536, "blocks.0.modulation.diff", (1, 6, 1536)),
}


@pytest.mark.parametrize("family", WITH_PARAMETERS)
def test_a_file_for_diffusers_holds_nothing_that_diffusers_refuses_and_the_user_is_reported(family: str) -> None:
    """diffusers takes a file only if all of its keys have "lora" in them."""
    module, side, key, shape = WITH_PARAMETERS[family]
    base = base_of(family)
    placed = read_on(
        base, a_lora(f"diffusion_model.{module}", side, side) | {f"diffusion_model.{key}": torch.ones(shape)}
    )
    tensors = to_state_dict(placed.deltas, placed.scales, base, vectors=placed.vectors)
    adapter = Adapter("made", "here", {}, tensors=tensors, fits=base)

    written = {spelling: respell(adapter, spelling) for spelling in SPELLINGS}

    assert len(placed.vectors) == 1
    assert all("lora" in key for key in written["diffusers"])
    assert len(written["diffusers"]) == 2
    (note,) = note_left_out(adapter, "diffusers")
    assert note.startswith("Not in the file: 1 of the LoRA's keys")
    for spelling in ("comfy", "kohya"):
        assert len(written[spelling]) == 4
        assert note_left_out(adapter, spelling) == ()


def test_a_file_for_diffusers_has_no_shape_of_a_widened_layer() -> None:
    base = base_of("Flux dev")
    shape = {"diffusion_model.img_in.reshape_weight": torch.tensor([3072, 128])}
    tensors = a_lora("diffusion_model.img_in", 3072, 128) | shape
    adapter = Adapter("made", "here", {}, tensors=tensors, fits=base)

    assert set(respell(adapter, "diffusers")) == {
        "transformer.x_embedder.lora_A.weight",
        "transformer.x_embedder.lora_B.weight",
    }
    assert note_left_out(adapter, "diffusers")


def test_biases_alone_are_not_saved_as_an_empty_file_for_diffusers() -> None:
    base = base_of("Flux dev")
    adapter = Adapter("made", "here", {}, tensors={"diffusion_model.img_in.diff_b": torch.ones(3072)}, fits=base)

    with pytest.raises(InvalidSetting, match="Choose comfy or kohya"):
        respell(adapter, "diffusers")
