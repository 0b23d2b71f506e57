"""Changes of biases, norms and other parameters without a subspace: copied where the target has the same parameter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from .layers import Skipped
from .matching import BlockMap


@dataclass(frozen=True)
class Vector:
    """A change of a bias, a norm or a table (Wan's modulations), which has no subspace: of the parameter's shape, added
    to it ("diff") or put in its place ("set")."""

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
    """Copies each vector to the same parameter of the target, or lists it where there is none (docs/method.md,
    section 7). A parameter of a block goes where the block map sends its block; a key of the file is counted once."""
    copied: list[Vector] = []
    skipped: list[Skipped] = []
    for vector in vectors:
        places = _places(vector.parameter, block_map)
        if not places:
            reason = f"{_kind(vector)}: the block that it belongs to feeds no block of the target"
            skipped.append(Skipped(vector.parameter, reason, vector.keys))
        for index, place in enumerate(places):
            keys = vector.keys if index == 0 else ()
            found = parameters.get(place)
            if found == tuple(vector.values.shape):
                copied.append(replace(vector, parameter=place, keys=keys))
                continue
            reason = "has no such parameter" if found is None else f"has it with {list(found)} values"
            skipped.append(Skipped(place, f"{_kind(vector)}: {target} {reason}", keys))
    return tuple(copied), tuple(skipped)


def _kind(vector: Vector) -> str:
    return "a bias or norm" if vector.values.ndim == 1 else "a parameter that is no weight"


def _places(parameter: str, block_map: BlockMap | None) -> list[str]:
    """Where a parameter of the source stands in the target: in every block that its block feeds. The longest block
    whose name stands in it as whole words is its own; one outside of all blocks keeps its name."""
    blocks = [] if block_map is None else block_map.sources()
    inside = [block for block in blocks if f".{block}." in f".{parameter}"]
    if block_map is None or not inside:
        return [parameter]
    own = max(inside, key=len)
    before, _, after = f".{parameter}".rpartition(f".{own}.")
    return [f"{before}.{target}.{after}".removeprefix(".") for target in block_map.targets_of(own)]
