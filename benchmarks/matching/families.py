"""Small trained bases: six unrelated ones with different seeds, and children of each with more and more drift."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from .denoiser import Training, read_or_train

# How each child of a base is trained, from little to much drift.
COURSES = {
    "touched": Training("stripes", 50, 3e-4, 11),
    "tuned": Training("stripes", 200, 1e-3, 12),
    "retrained": Training("stripes", 400, 3e-3, 13),
    "far": Training("stripes", 500, 8e-3, 14),
}


@dataclass(frozen=True)
class Family:
    """A base and its children by name of their training."""

    base: dict[str, Tensor]
    children: dict[str, dict[str, Tensor]]


def read_or_train_families(
    folder: Path, count: int = 6, courses: tuple[str, ...] = tuple(COURSES), length: float = 1.0
) -> list[Family]:
    """Reads the families, and trains what is missing: 80 s for each family on one core. length: share of the steps."""
    families: list[Family] = []
    for seed in range(count):
        start = _shorten(Training("discs", 500, 2e-3, seed), length)
        base = read_or_train(None, start, folder / f"base{seed}.pt")
        children = {
            name: read_or_train(base, _shorten(COURSES[name], length), folder / f"base{seed}_{name}.pt")
            for name in courses
        }
        families.append(Family(base, children))
    return families


# Children of another depth: for each of their blocks, the base's block that it was copied from before training.
DEPTHS = {"one removed": (0, 2, 3), "two removed": (0, 3), "grown": (0, 1, 1, 2, 3, 3)}


def deepen(families: Sequence[Family], folder: Path, length: float = 1.0) -> dict[tuple[int, str], dict[str, Tensor]]:
    """Children with removed or doubled blocks, trained as "retrained" is: (index of the family, depth) -> weights."""
    children: dict[tuple[int, str], dict[str, Tensor]] = {}
    for index, family in enumerate(families):
        for name, origins in DEPTHS.items():
            start = {key: value for key, value in family.base.items() if not key.startswith("blocks.")}
            for index_in_child, origin in enumerate(origins):
                block = f"blocks.{origin}."
                start |= {
                    f"blocks.{index_in_child}.{key.removeprefix(block)}": value
                    for key, value in family.base.items()
                    if key.startswith(block)
                }
            path = folder / f"base{index}_{name.replace(' ', '_')}.pt"
            children[index, name] = read_or_train(start, _shorten(COURSES["retrained"], length), path)
    return children


def _shorten(course: Training, length: float) -> Training:
    return replace(course, steps=max(1, round(length * course.steps)))
