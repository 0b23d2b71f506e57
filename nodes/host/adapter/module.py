"""Reads one module of an adapter file with ComfyUI's reader, and checks everything that could make it wrong.

Errors raised here are reasons, without the names of file and module: the caller turns them into a `Skipped`, so that a
bad module never stops a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.lora
import torch
from comfy.weight_adapter import LoKrAdapter, OFTAdapter
from torch import Tensor

from ....core.errors import UnsupportedAdapter
from ....core.linalg import all_finite
from .group import MAGNITUDE, Group
from .positions import NORM_LIMIT, W1_A, W2_A, dora_scale_of
from .tlora import load_tlora
from .unread_kinds import explain_unread_kind, kinds_of_keys

# What ComfyUI's code raises if a tensor is missing or has an unexpected shape.
_OF_WRONG_SHAPE = (AttributeError, IndexError, RuntimeError, TypeError, UnboundLocalError, ValueError)

_BLOCK = 1 << 22  # values checked at a time: a whole tensor in float32 can take twice the memory of its file


@dataclass(frozen=True)
class ModulePatches:
    """ComfyUI's patches of a module (parameter -> patch), the keys (in ComfyUI's spelling) that are in them, and the
    other keys with the reason."""

    patches: Mapping[Any, Any]
    read: frozenset[str]
    unread: Mapping[str, str]


def read_module(spelled: str, group: Group, target: Any) -> ModulePatches:
    """Read one module. UnsupportedAdapter gives the reason if it is incomplete, holds NaN or infinity, or has a key
    that is not understood, because such a key may change what the others mean."""
    kinds = kinds_of_keys(group.keys())
    if kinds:
        key, kind = next(iter(kinds.items()))
        raise UnsupportedAdapter(f"by its key {key} {explain_unread_kind(kind)}")
    patches = _patches(spelled, group.tensors, target)
    if not patches:
        raise UnsupportedAdapter("ComfyUI finds no adapter in these keys")
    read = _keys_in_patches(spelled, patches, group.tensors)
    for key in sorted(read):
        if key != f"{spelled}.alpha" or not _is_without_alpha(patches):
            _check_values(group.file_keys[key] or key, group.tensors[key])
    _check_shape_of_padding(spelled, group, read)
    others = {key: tensor for key, tensor in group.tensors.items() if key not in read}
    second = _keys_of_second_change(spelled, others, target) if others else ()
    kind = name_of(next(iter(patches.values())))
    of_second = f"the module holds two changes, of which ComfyUI uses the {kind}"
    unread = {key: of_second if key in second else _explain_harmless(spelled, key, group) for key in others}
    _check_rotation(spelled, patches, group)
    return ModulePatches(patches, read, unread)


def name_of(patch: Any) -> str:
    """ComfyUI's name for the kind of a patch: lora, loha, oft, diff, ..."""
    return str(patch[0]) if isinstance(patch, tuple) else str(patch.name)


def check_fit(patch: Any, shape: tuple[int, ...]) -> None:
    """UnsupportedAdapter if one of ComfyUI's adapters does not fit a weight. Runs ComfyUI's own computation on shapes
    alone. It catches its errors and leaves the weight unchanged, so reaching our function is the sign of success."""
    # The tensors here have shapes alone, and so no norm to limit.
    limit = NORM_LIMIT.get(type(patch))
    stand_ins = (value.to("meta") if isinstance(value, Tensor) else value for value in patch.weights)
    weights = tuple(0.0 if index == limit and value is not None else value for index, value in enumerate(stand_ins))
    if not compute_weight(type(patch)(set(), weights), torch.empty(shape, device="meta"))[1] or not _scale_fits(
        patch, shape
    ):
        raise misfit(patch, shape)


def misfit(patch: Any, shape: tuple[int, ...]) -> UnsupportedAdapter:
    """The error for one of ComfyUI's adapters that does not fit a weight of this shape."""
    shapes = " and ".join(str(list(tensor.shape)) for tensor in patch.weights if isinstance(tensor, Tensor))
    return UnsupportedAdapter(f"expected its {patch.name} to fit the layer's {list(shape)}, found tensors {shapes}")


def compute_weight(patch: Any, weight: Tensor) -> tuple[Tensor, bool]:
    """(the changed weight, whether ComfyUI really computed it). `weight` itself may be changed in place."""
    reached: list[Tensor] = []

    def record(change: Tensor) -> Tensor:
        reached.append(change)
        return change

    try:
        changed = comfy.lora.calculate_weight([(1.0, patch, 1.0, None, record)], weight, patch.name)
    except _OF_WRONG_SHAPE:
        return weight, False
    return changed, bool(reached)


def _patches(spelled: str, tensors: Mapping[str, Tensor], target: Any) -> dict[Any, Any]:
    alpha = tensors.get(f"{spelled}.alpha")
    if alpha is not None and alpha.numel() != 1:
        raise UnsupportedAdapter(f"its alpha is expected to be one number, found {list(alpha.shape)}")
    if (tlora := load_tlora(spelled, tensors)) is not None:
        return {target: tlora}
    try:
        return comfy.lora.load_lora(tensors, {spelled: target}, log_missing=False)
    except KeyError as error:
        raise UnsupportedAdapter(f"it is incomplete: {error.args[0]} is missing") from error


def _keys_in_patches(spelled: str, patches: Mapping[Any, Any], tensors: Mapping[str, Tensor]) -> frozenset[str]:
    """The keys whose tensors are in the patches, by identity. ComfyUI's own list of loaded keys will not do: it also
    holds keys that are overwritten afterwards."""
    values = {
        id(value) for patch in patches.values() for value in (patch[1] if isinstance(patch, tuple) else patch.weights)
    }
    keys = {key for key, tensor in tensors.items() if id(tensor) in values}
    adapters = [patch for patch in patches.values() if not isinstance(patch, tuple)]
    as_numbers = [end for end in (".alpha", ".reshape_weight", MAGNITUDE) if adapters]
    if not any(patch.name == "lora" for patch in adapters):
        as_numbers = as_numbers[:1]
    return frozenset(keys | {f"{spelled}{end}" for end in as_numbers} & tensors.keys())


def _keys_of_second_change(spelled: str, others: Mapping[str, Tensor], target: Any) -> frozenset[str]:
    """The keys of a second change of the module: what ComfyUI would read if the other keys were the only ones."""
    try:
        patches = _patches(spelled, others, target)
    except UnsupportedAdapter:
        return frozenset()
    return _keys_in_patches(spelled, patches, others)


def _explain_harmless(spelled: str, key: str, group: Group) -> str:
    """Why a key that nothing reads does not change what the others mean; UnsupportedAdapter if it may."""
    end, tensor = key.removeprefix(spelled), group.tensors[key]
    if end in _FACTORS and not tensor.is_complex() and bool((tensor.float() == 1).all()):
        return "it multiplies by one"
    if reason := _HARMLESS.get(end):
        return reason
    file_key = group.file_keys[key] or key
    raise UnsupportedAdapter(f"its key {file_key} is not understood and may change what the module's other keys mean")


def _check_rotation(spelled: str, patches: Mapping[Any, Any], group: Group) -> None:
    """UnsupportedAdapter if an OFT also scales its outputs: ComfyUI reads that key but does not use it."""
    rescale = f"{spelled}.rescale"
    if rescale in group.tensors and any(isinstance(patch, OFTAdapter) for patch in patches.values()):
        _explain_harmless(spelled, rescale, group)


def _is_without_alpha(patches: Mapping[Any, Any]) -> bool:
    """Whether the module is a LoKr of two full matrices. It has no rank, so alpha is not used; trainers write
    9999999999, which is infinite in float16."""
    return any(
        isinstance(patch, LoKrAdapter) and patch.weights[W1_A] is patch.weights[W2_A] is None
        for patch in patches.values()
    )


def _check_shape_of_padding(spelled: str, group: Group, read: frozenset[str]) -> None:
    key = f"{spelled}.reshape_weight"
    if key not in read:
        return
    shape = group.tensors[key]
    if shape.ndim != 1 or shape.is_floating_point() or shape.dtype == torch.bool or bool((shape < 1).any()):
        raise UnsupportedAdapter(
            f"its {group.file_keys[key] or key} is expected to be a layer's shape, found {str(shape.tolist())[:80]}"
        )


def _check_values(key: str, tensor: Tensor) -> None:
    if tensor.numel() == 0:
        raise UnsupportedAdapter(f"{key} is empty (its shape is {list(tensor.shape)})")
    if tensor.is_complex():
        raise UnsupportedAdapter(f"{key} is expected to hold real numbers, found {tensor.dtype}")
    blocks = () if tensor.is_meta else (tensor,) if tensor.numel() <= _BLOCK else tensor.reshape(-1).split(_BLOCK)
    if not all(all_finite(block) for block in blocks):
        raise UnsupportedAdapter(f"{key} holds NaN or infinity: the file is damaged, or its training failed")


def _scale_fits(patch: Any, shape: tuple[int, ...]) -> bool:
    """Whether a DoRA scale can be divided by ComfyUI's norms, which are those of the outputs if there are as many."""
    scale = dora_scale_of(patch)
    if scale is None:
        return True
    if scale.ndim != len(shape):
        return False
    ones = [1] * (len(shape) - 2)
    norms = (shape[0], 1, *ones) if scale.shape[0] == shape[0] else (1, shape[1], *ones)
    try:
        return torch.broadcast_shapes(scale.shape, norms, shape) == shape
    except RuntimeError:
        return False


# Keys that nothing reads: those that multiply, and those that do not affect a module's other keys.
_FACTORS = (".scalar", ".rescale")
_HARMLESS = {
    ".alpha": "alpha scales factors, and this module has none",
    ".base_layer.weight": "the base's own weight, saved with the LoRA",
    ".base_layer.bias": "the base's own bias, saved with the LoRA",
}
