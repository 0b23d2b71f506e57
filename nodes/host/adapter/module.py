"""One module of an adapter file as ComfyUI reads it: its tensors looked at once, and every reason not to take it.

What is raised here is a reason, without the names around it: whoever goes through a file's modules makes a `Skipped` of
it, so that one bad module never stops a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.lora
import torch
from comfy.weight_adapter import BOFTAdapter, LoKrAdapter, OFTAdapter
from torch import Tensor

from ....core.errors import UnsupportedAdapter
from .group import MAGNITUDE, Group
from .unread_kinds import explain_unread_kind, kinds_of_keys

# Where an adapter of the host keeps the norm that a trainer took of alpha; on shapes alone there is no norm.
_NORM_LIMIT = {OFTAdapter: 2, BOFTAdapter: 2}

# What the host's code raises where a tensor is missing or has another shape than it goes by.
_OF_WRONG_SHAPE = (AttributeError, IndexError, RuntimeError, TypeError, UnboundLocalError, ValueError)

_BLOCK = 1 << 22  # values looked at at once: a copy of a whole tensor in float32 can be twice as large as its file


@dataclass(frozen=True)
class ModulePatches:
    """What the host makes of a module (parameter -> patch), the keys (in its spelling) that went into it, and those
    that did not, with the reason."""

    patches: Mapping[Any, Any]
    read: frozenset[str]
    unread: Mapping[str, str]


def read_module(spelled: str, group: Group, target: Any) -> ModulePatches:
    """Read one module; UnsupportedAdapter gives the reason where it is incomplete, its numbers are none, or one of its
    keys is not understood: that key may change what the others mean."""
    kinds = kinds_of_keys(group.keys())
    if kinds:
        key, kind = next(iter(kinds.items()))
        raise UnsupportedAdapter(f"by its key {key} {explain_unread_kind(kind)}")
    patches = _patches(spelled, group.tensors, target)
    if not patches:
        raise UnsupportedAdapter("the host finds no adapter in these keys")
    read = _carried(spelled, patches, group.tensors)
    for key in sorted(read):
        if key != f"{spelled}.alpha" or not _is_without_alpha(patches):
            _check_values(group.file_keys[key] or key, group.tensors[key])
    _check_shape_of_padding(spelled, group, read)
    left = {key: tensor for key, tensor in group.tensors.items() if key not in read}
    second = _second_change(spelled, left, target)
    taken = name_of(next(iter(patches.values())))
    of_second = f"the module holds two changes, of which ComfyUI takes the {taken}"
    unread = {key: of_second if key in second else _explain_harmless(spelled, key, group) for key in left}
    _check_rotation(spelled, patches, group)
    return ModulePatches(patches, read, unread)


def name_of(patch: Any) -> str:
    """The kind of a host's patch in its own word: lora, loha, oft, diff, ..."""
    return str(patch[0]) if isinstance(patch, tuple) else str(patch.name)


def check_fit(patch: Any, shape: tuple[int, ...]) -> None:
    """UnsupportedAdapter where a host's adapter does not fit a weight: its own computation, on shapes alone. It catches
    its errors and leaves the weight as it is, so the sign of success is that it came to the function."""
    limit = _NORM_LIMIT.get(type(patch))
    stand_ins = (one.to("meta") if isinstance(one, Tensor) else one for one in patch.weights)
    weights = tuple(0.0 if index == limit and one is not None else one for index, one in enumerate(stand_ins))
    if not compute_weight(type(patch)(set(), weights), torch.empty(shape, device="meta"))[1] or not _scale_fits(
        patch, shape
    ):
        raise misfit(patch, shape)


def misfit(patch: Any, shape: tuple[int, ...]) -> UnsupportedAdapter:
    """The reason why a host's adapter does not fit a weight of this shape."""
    found = " and ".join(str(list(one.shape)) for one in patch.weights if isinstance(one, Tensor))
    return UnsupportedAdapter(f"expected its {patch.name} to fit the layer's {list(shape)}, found tensors {found}")


def compute_weight(patch: Any, weight: Tensor) -> tuple[Tensor, bool]:
    """The weight that the host makes of `weight` (which it may change in place), and whether it really did."""
    reached: list[Tensor] = []

    def note(change: Tensor) -> Tensor:
        reached.append(change)
        return change

    try:
        changed = comfy.lora.calculate_weight([(1.0, patch, 1.0, None, note)], weight, patch.name)
    except _OF_WRONG_SHAPE:
        return weight, False
    return changed, bool(reached)


def _patches(spelled: str, tensors: Mapping[str, Tensor], target: Any) -> dict[Any, Any]:
    alpha = tensors.get(f"{spelled}.alpha")
    if alpha is not None and alpha.numel() != 1:
        raise UnsupportedAdapter(f"its alpha is expected to be one number, found {list(alpha.shape)}")
    try:
        return comfy.lora.load_lora(tensors, {spelled: target}, log_missing=False)
    except KeyError as error:
        raise UnsupportedAdapter(f"it is incomplete: {error.args[0]} is missing") from error


def _carried(spelled: str, patches: Mapping[Any, Any], tensors: Mapping[str, Tensor]) -> frozenset[str]:
    """The keys whose tensors are in the patches, by identity: the host counts as loaded what it then overwrites too."""
    values = {
        id(one) for patch in patches.values() for one in (patch[1] if isinstance(patch, tuple) else patch.weights)
    }
    keys = {key for key, tensor in tensors.items() if id(tensor) in values}
    adapters = [patch for patch in patches.values() if not isinstance(patch, tuple)]
    as_numbers = [end for end in (".alpha", ".reshape_weight", MAGNITUDE) if adapters]
    if not any(patch.name == "lora" for patch in adapters):
        as_numbers = as_numbers[:1]
    return frozenset(keys | {f"{spelled}{end}" for end in as_numbers} & tensors.keys())


def _second_change(spelled: str, left: Mapping[str, Tensor], target: Any) -> frozenset[str]:
    """The keys of another change of the module, where there is one: what the host would read if these were all."""
    try:
        patches = _patches(spelled, left, target)
    except UnsupportedAdapter:
        return frozenset()
    return _carried(spelled, patches, left)


def _explain_harmless(spelled: str, key: str, group: Group) -> str:
    """Why a key that nothing reads leaves the meaning of the others as it is; UnsupportedAdapter where it may not."""
    end, tensor = key.removeprefix(spelled), group.tensors[key]
    if end in _FACTORS and not tensor.is_complex() and bool((tensor.float() == 1).all()):
        return "it multiplies by one"
    if reason := _HARMLESS.get(end):
        return reason
    file_key = group.file_keys[key] or key
    raise UnsupportedAdapter(f"its key {file_key} is not understood and may change what the module's other keys mean")


def _check_rotation(spelled: str, patches: Mapping[Any, Any], group: Group) -> None:
    """UnsupportedAdapter where an OFT scales its outputs too: the host reads the key and leaves it out."""
    rescale = f"{spelled}.rescale"
    if rescale in group.tensors and any(isinstance(patch, OFTAdapter) for patch in patches.values()):
        _explain_harmless(spelled, rescale, group)


def _is_without_alpha(patches: Mapping[Any, Any]) -> bool:
    """Whether the module is a LoKr of two full matrices, which has no rank and so no use for alpha: trainers write
    9999999999, which is infinite in float16."""
    return any(isinstance(one, LoKrAdapter) and one.weights[3] is one.weights[5] is None for one in patches.values())


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
    blocks = () if tensor.is_meta else tensor.reshape(-1).split(_BLOCK)
    if not all(bool(torch.isfinite(block.float()).all()) for block in blocks):
        raise UnsupportedAdapter(f"{key} holds NaN or infinity: the file is damaged, or its training went astray")


def _scale_fits(patch: Any, shape: tuple[int, ...]) -> bool:
    """Whether a DoRA scale can be divided by the norms that the host takes: of outputs, where it has as many."""
    scale = patch.weights[DORA[patch.name]]
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


# Keys that nothing reads: those that multiply, and those that say nothing of a module's other keys.
_FACTORS = (".scalar", ".rescale")
_HARMLESS = {
    ".alpha": "alpha scales factors, and this module has none",
    ".base_layer.weight": "the base's own weight, saved with the LoRA",
    ".base_layer.bias": "the base's own bias, saved with the LoRA",
}

# Where each kind of the host keeps a DoRA scale.
DORA = {"lora": 4, "loha": 7, "lokr": 8, "glora": 5, "oft": 3, "boft": 3}
