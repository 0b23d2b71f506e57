"""Files of trainers and converters with keys of their own: read to the last value, or refused in a true sentence."""

import json
from functools import cache
from pathlib import Path

import comfy.lora
import pytest
import torch
from torch import Tensor

from lora_transfer.core.errors import UnsupportedAdapter, UnsupportedBase
from lora_transfer.core.files import TensorFile
from lora_transfer.nodes.host.adapter.adapter import Adapter
from lora_transfer.nodes.host.adapter.read import AdapterOnBase, read_adapter
from lora_transfer.nodes.host.adapter.write import to_state_dict
from lora_transfer.nodes.host.base.from_file import base_from_header
from lora_transfer.nodes.host.base.from_model import HostBase
from tests.host.families import header_of
from tests.host.small_families import small_header

FLUX = 128  # columns of the small Flux


@cache
def small(family: str) -> HostBase:
    return base_from_header(small_header(family), family, "header")


def read(tensors: dict[str, Tensor], base: HostBase, metadata: dict[str, str] | None = None) -> AdapterOnBase:
    return read_adapter(Adapter("made", "here", metadata or {}, tensors=tensors), base)


def factors(module: str, rows: int, columns: int, up: str, down: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(rows + columns + len(module))
    made = {f"{module}{up}": (rows, 2), f"{module}{down}": (2, columns)}
    return {key: torch.randn(shape, generator=generator) for key, shape in made.items()}


def product(tensors: dict[str, Tensor], module: str, up: str, down: str) -> Tensor:
    return tensors[f"{module}{up}"] @ tensors[f"{module}{down}"]


XLABS = {
    "double_blocks.0.processor.qkv_lora1": ("double_blocks.0.img_attn.qkv", 3, 1),
    "double_blocks.0.processor.qkv_lora2": ("double_blocks.0.txt_attn.qkv", 3, 1),
    "double_blocks.0.processor.proj_lora1": ("double_blocks.0.img_attn.proj", 1, 1),
    "double_blocks.0.processor.proj_lora2": ("double_blocks.0.txt_attn.proj", 1, 1),
    "single_blocks.0.processor.qkv_lora": ("single_blocks.0.linear1[0:384]", 3, 1),
    "single_blocks.0.processor.proj_lora": ("single_blocks.0.linear2", 1, 5),
}


@pytest.mark.parametrize("chosen", [list(XLABS), list(XLABS)[:4], list(XLABS)[4:]], ids=["all", "double", "single"])
def test_loras_of_xlabs_are_read_whichever_blocks_were_trained(chosen: list[str]) -> None:
    ends = ".up.weight", ".down.weight"
    tensors: dict[str, Tensor] = {}
    for module in chosen:
        _, height, width = XLABS[module]
        tensors |= factors(module, height * FLUX, width * FLUX, *ends)
    placed = read(tensors, small("Flux dev"))
    assert not placed.skipped
    assert not placed.unread
    for module in chosen:
        layer = XLABS[module][0]
        parts = [name for name in placed.layers() if name == layer or name.startswith(f"{layer}[")]
        found = torch.cat([placed.deltas[part].dense() for part in parts])
        assert torch.allclose(found, product(tensors, module, *ends), atol=1e-5)


def nunchaku() -> dict[str, Tensor]:
    """As its converter writes them: q, k and v fused, factors packed for kernels, rows of a modulation reordered."""
    tensors: dict[str, Tensor] = {}
    for block, modules in (
        ("transformer_blocks.0", ("qkv_proj", "qkv_proj_context", "out_proj", "mlp_fc1", "mlp_context_fc2")),
        ("single_transformer_blocks.0", ("qkv_proj", "out_proj", "mlp_fc1", "mlp_fc2")),
    ):
        for module in modules:
            tensors |= {f"{block}.{module}.lora_down": torch.ones(FLUX, 16)}
            tensors |= {f"{block}.{module}.lora_up": torch.ones(FLUX, 16)}
    for module, parts in (("transformer_blocks.0.norm1", 6), ("single_transformer_blocks.0.norm", 3)):
        tensors |= factors(f"{module}.linear", parts * FLUX, FLUX, ".lora_up", ".lora_down")
    return tensors


def test_a_lora_converted_for_nunchaku_is_refused_and_never_read_in_part() -> None:
    with pytest.raises(UnsupportedAdapter, match=r"converted for Nunchaku, .* Use the file that it was"):
        read(nunchaku(), small("Flux dev"))


def second(module: str) -> dict[str, Tensor]:
    return factors(module, 1536, 1536, ".lora_B.weight", ".lora_A.weight")


FIRST_EXPERT, SECOND_EXPERT = "transformer.blocks.0.attn1.to_q", "transformer_2.blocks.0.attn1.to_q"


def test_a_file_of_the_second_expert_alone_is_read_on_the_base_that_was_chosen() -> None:
    wan = base_from_header(header_of("Wan 2.1 1.3B"), "Wan", "header")
    tensors = second(SECOND_EXPERT)
    placed = read(tensors, wan)
    assert placed.layers() == ["blocks.0.self_attn.q"]
    right = product(tensors, SECOND_EXPERT, ".lora_B.weight", ".lora_A.weight")
    assert torch.allclose(placed.deltas["blocks.0.self_attn.q"].dense(), right, atol=1e-4)


def test_of_a_file_of_both_experts_the_second_is_left_out_with_the_true_reason() -> None:
    wan = base_from_header(header_of("Wan 2.1 1.3B"), "Wan", "header")
    placed = read({**second(FIRST_EXPERT), **second(SECOND_EXPERT)}, wan)
    assert placed.layers() == ["blocks.0.self_attn.q"]
    assert set(placed.unread) == {f"{SECOND_EXPERT}.lora_{end}.weight" for end in "AB"}
    (reason,) = set(placed.unread.values())
    assert reason.startswith("it belongs to a second transformer (transformer_2")


def test_settings_of_the_second_expert_scale_it() -> None:
    wan = base_from_header(header_of("Wan 2.1 1.3B"), "Wan", "header")
    metadata = {"lora_adapter_metadata": '{"transformer.lora_alpha": 2, "transformer_2.lora_alpha": 8}'}
    placed = read(second(SECOND_EXPERT), wan, metadata)
    assert placed.scales == {"blocks.0.self_attn.q": 4.0}


@pytest.mark.parametrize(
    ("family", "wrapped"), [("Flux dev", "attn.proj"), ("Flux dev", "attn.qkv"), ("Wan 2.1 1.3B", "cross_attn.o")]
)
def test_a_base_that_is_still_wrapped_by_peft_is_refused(family: str, wrapped: str) -> None:
    """Its own weights are not what it does: the LoRA beside them is a part of it."""
    whole = header_of(family).tensors
    names = {key: key.replace(f"{wrapped}.", f"{wrapped}.base_layer.") for key in whole}
    file = TensorFile(Path("wrapped"), {names[key]: header for key, header in whole.items()}, {})
    with pytest.raises(UnsupportedBase, match=r"found layers with a LoRA of PEFT around them .*merge_and_unload"):
        base_from_header(file, "wrapped", "header")


LINEAR = "transformer.time_text_embed.timestep_embedder.linear_1"


def lora_on_linear() -> dict[str, Tensor]:
    return factors(LINEAR, FLUX, 256, ".lora_B.weight", ".lora_A.weight")


@pytest.mark.parametrize("spelling", ["comfy", "kohya"])
def test_a_bias_that_peft_trained_takes_the_place_of_the_bases_in_the_saved_file_too(spelling: str) -> None:
    """bias="lora_only" saves the whole bias, not its change, and nothing of the base's weight."""
    base, bias = small("Flux dev"), "diffusion_model.time_in.in_layer.bias"
    tensors = lora_on_linear() | {f"{LINEAR}.base_layer.bias": torch.arange(float(FLUX))}
    placed = read(tensors, base)
    assert [(one.parameter, one.kind) for one in placed.vectors] == [(bias, "set")]
    assert torch.equal(placed.vectors[0].values, torch.arange(float(FLUX)))
    saved = to_state_dict(placed.deltas, placed.scales, base, spelling, placed.vectors)
    (patch,) = (
        patch
        for key, patch in comfy.lora.load_lora(saved, dict(base.key_map), log_missing=False).items()
        if key == bias
    )
    assert patch[0] == "set"
    assert torch.equal(patch[1][0], torch.arange(float(FLUX)))


def test_a_bias_saved_with_the_weight_beside_it_is_the_bases_own() -> None:
    own = {f"{LINEAR}.base_layer.bias": torch.ones(FLUX), f"{LINEAR}.base_layer.weight": torch.ones(FLUX, 256)}
    placed = read(lora_on_linear() | own, small("Flux dev"))
    assert not placed.vectors
    assert set(placed.unread) == set(own)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16", "olora", "corda", "loftq"])
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_a_lora_that_began_by_changing_its_base_is_not_read_as_a_plain_one(start: str, prefix: str) -> None:
    metadata = {"lora_adapter_metadata": json.dumps({f"{prefix}init_lora_weights": start, f"{prefix}r": 2})}
    with pytest.raises(UnsupportedAdapter, match=rf"its training began with {start} .*changes the base too"):
        read(lora_on_linear(), small("Flux dev"), metadata)


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal", None])
def test_other_starts_of_a_lora_leave_its_meaning_as_it_is(start: object) -> None:
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.init_lora_weights": start})}
    assert read(lora_on_linear(), small("Flux dev"), metadata).modules


def test_a_file_of_wan_fun_is_accounted_for_by_its_own_keys() -> None:
    """Its prefix ends in two underscores; ComfyUI renames the keys in place where it finds this one."""
    wan = base_from_header(header_of("Wan 2.1 1.3B"), "Wan", "header")
    tensors: dict[str, Tensor] = {}
    for module, rows in (("lora_unet__blocks_0_cross_attn_k", 1536), ("lora_unet__blocks_3_ffn_0", 8960)):
        tensors |= factors(module, rows, 1536, ".lora_up.weight", ".lora_down.weight")
    placed = read(tensors, wan)
    assert sorted(key for module in placed.modules for key in module.keys) == sorted(tensors)


def test_a_second_adapter_in_the_file_is_not_called_another_spelling() -> None:
    tensors = lora_on_linear() | {
        f"{LINEAR}.lora_B.other.weight": torch.ones(FLUX, 2),
        f"{LINEAR}.lora_A.other.weight": torch.ones(2, 256),
    }
    placed = read(tensors, small("Flux dev"))
    assert placed.unread[f"{LINEAR}.lora_A.other.weight"] == (
        f"of another adapter in the file than {LINEAR}.lora_A.weight, which was read"
    )
