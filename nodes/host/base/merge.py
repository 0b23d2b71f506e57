"""Patches on a loaded model: patches of a merge count as weights, patches of LoRAs are left out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from comfy.weight_adapter import WeightAdapterBase

# ComfyUI's tuple: (strength, value, strength of the weight itself, slice, function).
Patch = tuple[float, Any, float, Any, Any]

# Patches of ComfyUI's LoRA loaders that are not adapters, by the tag in their tuple.
_KINDS = {"diff": "full differences", "set": "replaced weights"}


def note_patched_weights(source: Any, target: Any) -> list[str]:
    """Notes on the connected models that have patches already."""
    return [
        f"the connected {name} model has {len(model.patches)} patched weights already: they count as part of it"
        for name, model in (("source", source), ("target", target))
        if model.patches
    ]


def note_merge(patcher: Any, what: str) -> tuple[str, ...]:
    """A note if a merge changes weights of a loaded model or text encoder: its base is read with these changes."""
    merged = find_merged_weights(patcher.patches)
    if not merged:
        return ()
    return (
        f"{len(merged)} weights of the connected {what} were changed by a merge or another node: they are read with "
        "these changes",
    )


def note_loras(patcher: Any, what: str) -> tuple[str, ...]:
    """A note if LoRAs are on a loaded model or text encoder: its base is read without them."""
    loras = describe_loras(patcher)
    return (f"LoRAs on the connected {what} are left out: {'; '.join(loras)}",) if loras else ()


def merge_patches(patches: Sequence[Patch]) -> list[Patch]:
    """The patches of a weight without those of LoRAs, which a merged model may hold as well."""
    return [
        (strength, _drop_loras(value), of_weight, part, function)
        for strength, value, of_weight, part, function in patches
        if _kind_of_lora(value) is None
    ]


def find_merged_weights(patches: Mapping[str, Sequence[Patch]]) -> list[str]:
    """The keys of the weights that a merge changes."""
    return [key for key, of_weight in patches.items() if merge_patches(of_weight)]


def describe_loras(patcher: Any) -> list[str]:
    """The LoRAs on a model in words. ComfyUI does not keep their names, so kind, strength and number of weights have to
    tell them apart."""
    counts = Counter(lora for patches in patcher.patches.values() for lora in set(_loras_in(patches)))
    words = [f"{kind} on {count} weights at strength {strength:g}" for (kind, strength), count in counts.items()]
    return [*words, *(["a LoRA in bypass mode"] if patcher.injections.get("bypass_lora") else [])]


def _loras_in(patches: Sequence[Patch]) -> Iterator[tuple[str, float]]:
    """(kind, strength) of every LoRA among the patches, including those inside merged weights."""
    for strength, value, *_ in patches:
        kind = _kind_of_lora(value)
        if kind is not None:
            yield kind, strength
        elif isinstance(value, list):
            yield from _loras_in(value[1:])


def _kind_of_lora(value: Any) -> str | None:
    """The kind of LoRA that a patch's value comes from; None for a merge.

    ComfyUI's LoRA loaders write adapters, or pairs of a tag and tensors. Its merge nodes write
    [(weight, function), *patches of that weight], or (tensor,) or (None,) where they only add or scale."""
    if isinstance(value, WeightAdapterBase):
        return value.name
    if isinstance(value, list) or (isinstance(value, tuple) and len(value) == 1):
        return None
    return _KINDS.get(value[0], str(value[0])) if isinstance(value, tuple) and value else type(value).__name__


def _drop_loras(value: Any) -> Any:
    return [value[0], *merge_patches(value[1:])] if isinstance(value, list) else value
