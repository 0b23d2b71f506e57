"""Changes of biases, norms and other parameters without a subspace: from ComfyUI's patches to whole parameters."""

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
    """The changes of parameters with the rows that they are of, in float32, and those that the base has no place for.
    On a slice, the host names the bias after the slice's tuple (a bug of 0.30): the bias of the fused weight is meant,
    with zeros on the other rows."""
    key, rows, _ = parse_target(target)
    vectors: list[tuple[Vector, Rows | None]] = []
    skipped: list[Skipped] = []
    for name, patch in patches.items():
        if patch is matrix or not isinstance(patch, tuple):
            continue
        parameter = key if name == target else key.removesuffix(".weight") + ".bias"
        kind, (values, *_) = patch
        file_keys = tuple(group.file_keys[one] for one, tensor in group.tensors.items() if tensor is values)
        if reason := _misfit(values, kind, rows, base.parameters.get(parameter)):
            skipped.append(Skipped(parameter, reason, file_keys))
            continue
        # A file may hold them in float8, for which torch has no addition.
        exact = values.to(torch.float32)
        ordered = exact if (to_model_order := row_order(target)) is None else to_model_order(exact)
        whole = _on_whole(ordered, rows, base.parameters[parameter])
        vectors.append((Vector(parameter, kind, whole, file_keys), rows))
    return tuple(vectors), tuple(skipped)


def sum_vectors(found: Iterable[tuple[Vector, Rows | None]]) -> tuple[tuple[Vector, ...], tuple[Skipped, ...]]:
    """One vector for each parameter and kind: those of its slices summed. Of two changes of the same rows, which the
    file gives under two names, ComfyUI takes one; so does this."""
    vectors: dict[tuple[str, str], Vector] = {}
    taken: set[tuple[str, str, Rows | None]] = set()
    skipped: list[Skipped] = []
    for vector, rows in found:
        place = vector.parameter, vector.kind
        if (*place, rows) in taken:
            reason = "the file changes this parameter under another name too; that one was taken"
            skipped.append(Skipped(vector.parameter, reason, vector.keys))
            continue
        taken.add((*place, rows))
        before = vectors.get(place)
        vectors[place] = vector if before is None else _sum(before, vector)
    return tuple(vectors.values()), tuple(skipped)


def _sum(one: Vector, other: Vector) -> Vector:
    return replace(one, values=one.values + other.values, keys=(*one.keys, *other.keys))


def _misfit(values: Tensor, kind: str, rows: Rows | None, shape: tuple[int, ...] | None) -> str | None:
    if shape is None:
        return "the base has no such parameter"
    if rows is None and tuple(values.shape) != shape:
        return f"it has shape {list(values.shape)}, the base's parameter {list(shape)}"
    if kind == "set" and rows is not None:
        return "it replaces a part of a fused bias or norm, which no file can say of a part"
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
