"""Writes deltas as the tensors of a file, in a spelling of the user's choice. ComfyUI's own loader reads all of
them."""

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
    """prefixes: of the module names in the base's key map that this spelling uses. scaled: it has no alpha, so the
    factors include alpha / rank. only_factors: its loader refuses a file that holds anything else."""

    prefixes: tuple[str, ...]
    up: str
    down: str
    scaled: bool = False
    only_factors: bool = False


SPELLINGS: dict[str, Spelling] = {
    "comfy": Spelling((UNET, "text_encoders."), ".lora_up.weight", ".lora_down.weight"),
    # sd-scripts numbers the text encoders of Flux like those of SD3, where T5 is the third.
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

# ComfyUI knows the older names of diffusers' UNet. diffusers still reads them, but not with PEFT's suffixes.
_OLD_DIFFUSERS = (("_lora.up.weight", "_lora.down.weight"), (".lora.up.weight", ".lora.down.weight"))


def to_state_dict(
    deltas: Mapping[str, LowRankDelta],
    scales: Mapping[str, float],
    base: HostBase,
    spelling: str = "comfy",
    vectors: Sequence[Vector] = (),
    widened: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, Tensor]:
    """The deltas under the base's names. The original's scale alpha / rank is kept, so alpha follows the rank
    (docs/method.md, section 3, law 8). A layer that has no name in the spelling is written under ComfyUI's name. What
    the spelling's loader refuses is left out (save.note_left_out says so)."""
    chosen = SPELLINGS[spelling]
    names = _names(base, chosen)
    comfy_names = names if spelling == "comfy" else _names(base, SPELLINGS["comfy"])
    tensors: dict[str, Tensor] = {}
    for layer, delta in _whole_where_unnamed(deltas, names, base).items():
        module = names.get(layer) or comfy_names[layer]
        shape = base.layers[layer].weight.shape
        if widened is not None and layer in widened:
            shape = widened[layer]
            tensors[f"{module}.reshape_weight"] = torch.tensor(shape)
        kernel = shape[2:]
        # alpha = 0 means a delta of zeros, for which any scale will do; joined slices use the scale of the first.
        scale = 1.0 if chosen.scaled else scales.get(layer) or next((value for value in scales.values() if value), 1.0)
        up, down = _ends(module, chosen)
        tensors[f"{module}{up}"] = (delta.up / scale).reshape(-1, delta.rank, *(1 for _ in kernel)).contiguous()
        # A copy, because slices of one fused delta share it, and file formats do not allow that.
        tensors[f"{module}{down}"] = delta.down.reshape(delta.rank, *shape[1:]).clone(memory_format=_WHOLE)
        if not chosen.scaled:
            tensors[f"{module}.alpha"] = torch.tensor(scale * delta.rank)
    tensors |= dict(_write_vector(vector) for vector in vectors)
    return {key: value for key, value in tensors.items() if is_written(key, spelling)}


def count_values(deltas: Mapping[str, LowRankDelta], base: HostBase, vectors: Sequence[Vector] = ()) -> int:
    """How many values a file with these changes holds, in ComfyUI's own spelling."""
    whole = _whole_where_unnamed(deltas, _names(base, SPELLINGS["comfy"]), base)
    factors = sum(delta.rank * sum(delta.shape) for delta in whole.values())
    return factors + sum(vector.values.numel() for vector in vectors)


def is_written(key: str, spelling: str) -> bool:
    """Whether a file in this spelling may hold the key."""
    return "lora" in key or not SPELLINGS[spelling].only_factors


def _names(base: HostBase, spelling: Spelling) -> dict[str, str]:
    """Layer -> its module name in a spelling: the name with the first of the spelling's prefixes, or, if there are
    several, the name that trainers use for the base's family."""
    prefixes = list(spelling.prefixes)
    if "lora_te_" in prefixes and len(_text_encoders(base)) < 2:
        prefixes.insert(0, "lora_te_")  # a single encoder has no number
    phantom = "add_embedding" if base.family.startswith("SD2") else "class_embedding"
    names: dict[str, tuple[int, str]] = {}
    for module, target in base.key_map.items():
        if not module.startswith(tuple(prefixes)):
            continue
        rank = next(index for index, prefix in enumerate(prefixes) if module.startswith(prefix))
        _, rows, is_plain = parse_target(target)
        if not is_plain or module in base.extra or phantom in module:
            continue
        layer = layer_name(target)
        if spelling.prefixes[0] == UNET and rows is None and not _is_generic(module, target):
            continue
        later = base.family.startswith(_LATER_NAME.get(prefixes[rank], ()))
        if layer not in names or rank < names[layer][0] or (rank == names[layer][0] and later):
            names[layer] = rank, module
    return {layer: module for layer, (_, module) in names.items()}


# The families whose trainers use the later of two names in ComfyUI's map, where a model's own names come first.
# sd-scripts trains SD 1 and 2 in diffusers' UNet, and all others in a UNet with the model's own names. The names of
# Flux.2 come after those of Flux.1. (For a UNet's label embedding ComfyUI has two names of diffusers, from a set, so
# their order changes from run to run. diffusers' UNet has only one of them: see `phantom` above.)
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
    """The deltas, with slices that the spelling cannot name joined into one delta on the fused weight. This is exact.
    Ranks add up, unless the slices share `down`, as slices of a LoRA on the fused weight do."""
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


def _sum(first: LowRankDelta, second: LowRankDelta) -> LowRankDelta:
    if first.down.shape == second.down.shape and torch.equal(first.down, second.down):
        return LowRankDelta(first.up + second.up, first.down)
    return first.plus(second)


def _write_vector(vector: Vector) -> tuple[str, Tensor]:
    """A bias, norm or table under ComfyUI's own name, which all loaders but diffusers' accept in any spelling."""
    prefix = "" if vector.parameter.startswith(UNET) else "text_encoders."
    if vector.parameter.endswith(".bias") and vector.kind == "diff":
        return f"{prefix}{vector.parameter.removesuffix('.bias')}.diff_b", vector.values
    end = ".diff" if vector.kind == "diff" else ".set_weight"
    return f"{prefix}{vector.parameter.removesuffix('.weight')}{end}", vector.values
