"""Transfers changes of biases, norms and other parameters without a subspace: they are copied."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from .layers import Skipped
from .matching import BlockMap


@dataclass(frozen=True)
class Vector:
    """A change of a bias, a norm or a table (Wan's modulations), which has no subspace.

    values: of the parameter's shape; kind "diff" adds them to it, "set" replaces it. keys: the file's keys.
    """

    parameter: str
    kind: Literal["diff", "set"]
    values: Tensor
    keys: tuple[str, ...]


def plan_vectors(
    vectors: Sequence[Vector],
    parameters: Mapping[str, tuple[int, ...]],
    target: str,
    block_map: BlockMap | None = None,
) -> tuple[tuple[Vector, ...], tuple[Skipped, ...]]:
    """Copy each vector to the target's parameter of the same name, or skip it with a reason (docs/method.md, section
    7).

    parameters: the shapes of the target's parameters. target: its name, for the reasons. block_map: a parameter inside
    a block is copied to every block that its block feeds. The first copy has the vector's keys, so that each counts
    once.
    """
    copied: list[Vector] = []
    skipped: list[Skipped] = []
    for vector in vectors:
        names = _target_names(vector.parameter, block_map)
        if not names:
            reason = f"{_describe(vector)}: its block feeds no block of the target"
            skipped.append(Skipped(vector.parameter, reason, vector.keys))
        for index, name in enumerate(names):
            keys = vector.keys if index == 0 else ()
            shape = parameters.get(name)
            if shape == tuple(vector.values.shape):
                copied.append(replace(vector, parameter=name, keys=keys))
                continue
            reason = "has no such parameter" if shape is None else f"has it with shape {list(shape)}"
            skipped.append(Skipped(name, f"{_describe(vector)}: {target} {reason}", keys))
    return tuple(copied), tuple(skipped)


def _describe(vector: Vector) -> str:
    return "a bias or norm" if vector.values.ndim == 1 else "a parameter that is not a weight"


def _target_names(parameter: str, block_map: BlockMap | None) -> list[str]:
    """The target's names for a source parameter: one in every block that its block feeds.

    A parameter belongs to the longest block name that it contains between dots. Outside all blocks it keeps its name.
    """
    blocks = [] if block_map is None else block_map.sources()
    inside = [block for block in blocks if f".{block}." in f".{parameter}"]
    if block_map is None or not inside:
        return [parameter]
    own = max(inside, key=len)
    before, _, after = f".{parameter}".rpartition(f".{own}.")
    return [f"{before}.{target}.{after}".removeprefix(".") for target in block_map.targets_of(own)]
