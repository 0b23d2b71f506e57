"""Deltas back into a file, in the spelling of the user's choice; ComfyUI's own loader reads every one of them whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....core.delta import LowRankDelta
from ....core.vectors import Vector
from ..base.from_model import HostBase
from ..base.names import UNET, layer_name, parse_target, slice_of


@dataclass(frozen=True)
class Spelling:
    """prefixes: of the module names that it uses, from the base's key map. scaled: alpha / rank is in the factors
    already, for a spelling without alpha. only_factors: its loader refuses a file that holds anything else."""

    prefixes: tuple[str, ...]
    up: str
    down: str
    scaled: bool = False
    only_factors: bool = False


SPELLINGS: dict[str, Spelling] = {
    "comfy": Spelling((UNET, "text_encoders."), ".lora_up.weight", ".lora_down.weight"),
    # sd-scripts counts the text encoders of Flux as of SD3, where T5 is the third.
    "kohya": Spelling(
        ("lora_unet_", "lora_te1_", "lora_te3_", "lora_te2_", "lora_te_"), ".lora_up.weight", ".lora_down.weight"
    ),
    "diffusers": Spelling(
        ("transformer.", "unet.", "text_encoder.", "text_encoder_2.", "text_encoder_3."),
        ".lora_B.weight",
        ".lora_A.weight",
        scaled=True,
        only_factors=True,  # diffusers: "Invalid LoRA checkpoint" unless every key has "lora" in it
    ),
}

_WHOLE = torch.contiguous_format

# ComfyUI knows a diffusers UNet by its older names; diffusers still reads those, but not with PEFT's suffixes.
_OLD_DIFFUSERS = (("_lora.up.weight", "_lora.down.weight"), (".lora.up.weight", ".lora.down.weight"))


def to_state_dict(
    deltas: Mapping[str, LowRankDelta],
    scales: Mapping[str, float],
    base: HostBase,
    spelling: str = "comfy",
    vectors: Sequence[Vector] = (),
    widened: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, Tensor]:
    """The deltas under the base's names. The scale alpha / rank of the original is kept: alpha follows the rank
    (docs/method.md, section 3, law 8). A layer that has no name in a spelling is written under ComfyUI's; what the
    spelling's loader refuses is left out (save.note_left_out says so)."""
    chosen = SPELLINGS[spelling]
    names, comfy_names = _names(base, chosen), _names(base, SPELLINGS["comfy"])
    tensors: dict[str, Tensor] = {}
    for layer, delta in _whole_where_unnamed(deltas, names, base).items():
        module = names.get(layer) or comfy_names[layer]
        shape = base.layers[layer].weight.shape
        if widened is not None and layer in widened:
            shape = widened[layer]
            tensors[f"{module}.reshape_weight"] = torch.tensor(shape)
        kernel = shape[2:]
        # alpha = 0 leaves a delta of zeros, which any scale writes; slices put together take the scale of the first.
        scale = 1.0 if chosen.scaled else scales.get(layer) or next((scales[one] for one in scales if scales[one]), 1.0)
        up, down = _ends(module, chosen)
        tensors[f"{module}{up}"] = (delta.up / scale).reshape(-1, delta.rank, *(1 for _ in kernel)).contiguous()
        # A copy: slices of one fused delta share it, and no file format knows of that.
        tensors[f"{module}{down}"] = delta.down.reshape(delta.rank, *shape[1:]).clone(memory_format=_WHOLE)
        if not chosen.scaled:
            tensors[f"{module}.alpha"] = torch.tensor(scale * delta.rank)
    tensors |= dict(_written_vector(vector) for vector in vectors)
    return {key: value for key, value in tensors.items() if is_written(key, spelling)}


def is_written(key: str, spelling: str) -> bool:
    """Whether a file in this spelling may hold the key."""
    return "lora" in key or not SPELLINGS[spelling].only_factors


def _names(base: HostBase, spelling: Spelling) -> dict[str, str]:
    """For every layer the module name of a spelling: the prefix that stands first, and of several names the one that
    trainers use for the base's family."""
    prefixes = list(spelling.prefixes)
    if "lora_te_" in prefixes and len(_text_encoders(base)) < 2:
        prefixes.insert(0, "lora_te_")  # one encoder alone has no number
    phantom = "add_embedding" if base.family.startswith("SD2") else "class_embedding"
    names: dict[str, tuple[int, str]] = {}
    for module, target in base.key_map.items():
        rank = next((index for index, prefix in enumerate(prefixes) if module.startswith(prefix)), None)
        _, rows, is_plain = parse_target(target)
        if rank is None or not is_plain or module in base.extra or phantom in module:
            continue
        layer = layer_name(target)
        if spelling.prefixes[0] == UNET and rows is None and not _is_generic(module, target):
            continue
        later = base.family.startswith(_LATER_NAME.get(prefixes[rank], ()))
        if layer not in names or rank < names[layer][0] or (rank == names[layer][0] and later):
            names[layer] = rank, module
    return {layer: module for layer, (_, module) in names.items()}


# ComfyUI lists a model's own names before others that it reads. The families for which the later name is the right one:
# sd-scripts trains SD 1 and 2 in diffusers' UNet, all others in one with the model's own names; the names of Flux.2's
# parts stand after those of Flux.1. For a UNet's label embedding ComfyUI has two names of diffusers, out of a set, in
# another order every time; a UNet of diffusers has one of them.
_LATER_NAME = {"lora_unet_": ("SD15", "SD2"), "transformer.": ("Flux2",)}


def _text_encoders(base: HostBase) -> set[str]:
    return {name.partition(".")[0] for name, layer in base.layers.items() if layer.text_encoder}


def _is_generic(module: str, target: Any) -> bool:
    """Whether a module name is ComfyUI's own: the model's key, behind `text_encoders.` for an encoder."""
    key = str(target).removesuffix(".weight")
    return module in (key, f"text_encoders.{key}")


def _ends(module: str, spelling: Spelling) -> tuple[str, str]:
    if spelling.scaled and module.startswith("unet."):
        return _OLD_DIFFUSERS[0] if ".processor." in module else _OLD_DIFFUSERS[1]
    return spelling.up, spelling.down


def _whole_where_unnamed(
    deltas: Mapping[str, LowRankDelta], names: Mapping[str, str], base: HostBase
) -> dict[str, LowRankDelta]:
    """The deltas, with slices that the spelling cannot name put together into one on the fused weight: exact, at the
    sum of their ranks; at one's rank where they share `down`, as slices of a LoRA on the fused weight do."""
    whole: dict[str, LowRankDelta] = {}
    for layer, delta in deltas.items():
        fused, rows = slice_of(layer)
        if layer in names or fused is None or rows is None or fused not in base.layers:
            whole[layer] = delta
            continue
        up = delta.up.new_zeros(base.layers[fused].weight.shape[0], delta.rank)
        up[rows.as_slice] = delta.up
        in_place = LowRankDelta(up, delta.down)
        whole[fused] = _sum(whole[fused], in_place) if fused in whole else in_place
    return whole


def _sum(one: LowRankDelta, other: LowRankDelta) -> LowRankDelta:
    if one.down.shape == other.down.shape and torch.equal(one.down, other.down):
        return LowRankDelta(one.up + other.up, one.down)
    return one.plus(other)


def _written_vector(vector: Vector) -> tuple[str, Tensor]:
    """A bias, norm or table under ComfyUI's own names, which all loaders but diffusers' take in any file."""
    prefix = "" if vector.parameter.startswith(UNET) else "text_encoders."
    if vector.parameter.endswith(".bias") and vector.kind == "diff":
        return f"{prefix}{vector.parameter.removesuffix('.bias')}.diff_b", vector.values
    end = ".diff" if vector.kind == "diff" else ".set_weight"
    return f"{prefix}{vector.parameter.removesuffix('.weight')}{end}", vector.values
