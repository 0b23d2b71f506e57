"""Changes of biases, norms and other parameters without a subspace, from ComfyUI's patches."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ....core.layers import Rows, Skipped
from ....core.vectors import Vector
from ..base.from_model import HostBase
from ..base.names import parse_target, row_order
from .group import Group


def vectors_of_module(
    patches: Mapping[Any, Any], matrix: Any, group: Group, target: Any, base: HostBase
) -> tuple[tuple[tuple[Vector, Rows | None], ...], tuple[Skipped, ...]]:
    """The changes of parameters, in float32, each with its rows; and the changes that do not fit the base.

    For a slice, ComfyUI 0.30 names the bias after the slice's tuple, which is a bug. It means the bias of the fused
    weight; its other rows get zeros."""
    key, rows, _ = parse_target(target)
    vectors: list[tuple[Vector, Rows | None]] = []
    skipped: list[Skipped] = []
    for name, patch in patches.items():
        if patch is matrix or not isinstance(patch, tuple):
            continue
        parameter = key if name == target else key.removesuffix(".weight") + ".bias"
        kind, (values, *_) = patch
        file_keys = tuple(group.file_keys[key] for key, tensor in group.tensors.items() if tensor is values)
        if reason := _misfit(values, kind, rows, base.parameters.get(parameter)):
            skipped.append(Skipped(parameter, reason, file_keys))
            continue
        # A file may hold float8, and torch cannot add that.
        exact = values.to(torch.float32)
        ordered = exact if (to_model_order := row_order(target)) is None else to_model_order(exact)
        whole = _on_whole(ordered, rows, base.parameters[parameter])
        vectors.append((Vector(parameter, kind, whole, file_keys), rows))
    return tuple(vectors), tuple(skipped)


def sum_vectors(vectors: Iterable[tuple[Vector, Rows | None]]) -> tuple[tuple[Vector, ...], tuple[Skipped, ...]]:
    """One vector for each parameter and kind: the sum of those of its slices. If the file changes the same rows under
    two names, only the first counts, as in ComfyUI."""
    sums: dict[tuple[str, str], Vector] = {}
    seen: set[tuple[str, str, Rows | None]] = set()
    skipped: list[Skipped] = []
    for vector, rows in vectors:
        key = vector.parameter, vector.kind
        if (*key, rows) in seen:
            reason = "the file changes this parameter under another name too; that change was used"
            skipped.append(Skipped(vector.parameter, reason, vector.keys))
            continue
        seen.add((*key, rows))
        before = sums.get(key)
        sums[key] = vector if before is None else _sum(before, vector)
    return tuple(sums.values()), tuple(skipped)


def _sum(first: Vector, second: Vector) -> Vector:
    return replace(first, values=first.values + second.values, keys=(*first.keys, *second.keys))


def _misfit(values: Tensor, kind: str, rows: Rows | None, shape: tuple[int, ...] | None) -> str | None:
    if shape is None:
        return "the base has no such parameter"
    if rows is None and tuple(values.shape) != shape:
        return f"it has shape {list(values.shape)}, the base's parameter {list(shape)}"
    if kind == "set" and rows is not None:
        return "it replaces part of a fused bias or norm, and no file can store that"
    if rows is not None and (tuple(values.shape) != (rows.length, *shape[1:]) or rows.stop > shape[0]):
        return f"it has {values.numel()} values, its rows of the layer {rows.length}"
    return None


def _on_whole(values: Tensor, rows: Rows | None, shape: tuple[int, ...]) -> Tensor:
    """A slice's values on the whole parameter, zeros elsewhere."""
    if rows is None:
        return values
    whole = values.new_zeros(shape)
    whole[rows.as_slice] = values
    return whole
