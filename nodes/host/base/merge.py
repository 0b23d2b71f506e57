"""Patches on a loaded model: those of a merge count as weights, those of LoRAs are left out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from comfy.weight_adapter import WeightAdapterBase

# ComfyUI's own: (strength, value, strength of the weight itself, slice, function).
Patch = tuple[float, Any, float, Any, Any]

# What ComfyUI's LoRA loaders call patches that are no adapters.
_KINDS = {"diff": "full differences", "set": "replaced weights"}


def merge_patches(patches: Sequence[Patch]) -> list[Patch]:
    """The patches of one weight without those of LoRAs, which merged models may bring along too."""
    return [
        (strength, _without_loras(value), of_weight, part, function)
        for strength, value, of_weight, part, function in patches
        if _kind_of_lora(value) is None
    ]


def find_merged_weights(patches: Mapping[str, Sequence[Patch]]) -> list[str]:
    """The keys of all weights that a merge changes."""
    return [key for key, of_weight in patches.items() if merge_patches(of_weight)]


def describe_loras(patcher: Any) -> list[str]:
    """The LoRAs on a model in words. ComfyUI does not keep their names; kind, strength and number of weights tell them
    apart."""
    counted = Counter(found for patches in patcher.patches.values() for found in set(_loras_in(patches)))
    words = [f"{kind} on {count} weights at strength {strength:g}" for (kind, strength), count in counted.items()]
    return [*words, *(["one in bypass mode"] if patcher.injections.get("bypass_lora") else [])]


def _loras_in(patches: Sequence[Patch]) -> Iterator[tuple[str, float]]:
    for strength, value, *_ in patches:
        kind = _kind_of_lora(value)
        if kind is not None:
            yield kind, strength
        elif isinstance(value, list):
            yield from _loras_in(value[1:])


def _kind_of_lora(value: Any) -> str | None:
    """What kind of LoRA a patch's value comes from; None for a merge. ComfyUI's LoRA loaders write adapters and pairs
    of a kind and tensors; its merge nodes write [(weight, function), *patches of that weight], and those that only add
    or scale write (tensor,) or (None,)."""
    if isinstance(value, WeightAdapterBase):
        return value.name
    if isinstance(value, list) or (isinstance(value, tuple) and len(value) == 1):
        return None
    return _KINDS.get(value[0], str(value[0])) if isinstance(value, tuple) and value else type(value).__name__


def _without_loras(value: Any) -> Any:
    return [value[0], *merge_patches(value[1:])] if isinstance(value, list) else value
