"""Small trained bases: unrelated ones of six seeds, and children of each at graded drift."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from .denoiser import Training, trained

# How far each child of a base was trained away from it.
COURSES = {
    "touched": Training("stripes", 50, 3e-4, 11),
    "tuned": Training("stripes", 200, 1e-3, 12),
    "retrained": Training("stripes", 400, 3e-3, 13),
    "far": Training("stripes", 500, 8e-3, 14),
}


@dataclass(frozen=True)
class Family:
    """A base and its children by course."""

    base: dict[str, Tensor]
    children: dict[str, dict[str, Tensor]]


def families(
    folder: Path, count: int = 6, courses: tuple[str, ...] = tuple(COURSES), length: float = 1.0
) -> list[Family]:
    """Train what is missing: 80 s for each family on one core; later runs read it. length: a share of the steps."""
    found: list[Family] = []
    for seed in range(count):
        start = _shortened(Training("discs", 500, 2e-3, seed), length)
        base = trained(None, start, folder / f"base{seed}.pt")
        children = {
            name: trained(base, _shortened(COURSES[name], length), folder / f"base{seed}_{name}.pt") for name in courses
        }
        found.append(Family(base, children))
    return found


# Children of another depth: the base's block that each of their blocks was a copy of before it was trained on.
DEPTHS = {"one removed": (0, 2, 3), "two removed": (0, 3), "grown": (0, 1, 1, 2, 3, 3)}


def deepened(families: Sequence[Family], folder: Path, length: float = 1.0) -> dict[tuple[int, str], dict[str, Tensor]]:
    """(family, depth) -> a child with blocks left out or doubled, trained on until it draws stripes: "retrained"."""
    found: dict[tuple[int, str], dict[str, Tensor]] = {}
    for index, family in enumerate(families):
        for name, origins in DEPTHS.items():
            start = {key: value for key, value in family.base.items() if not key.startswith("blocks.")}
            for place, origin in enumerate(origins):
                block = f"blocks.{origin}."
                start |= {
                    f"blocks.{place}.{key.removeprefix(block)}": value
                    for key, value in family.base.items()
                    if key.startswith(block)
                }
            kept = folder / f"base{index}_{name.replace(' ', '_')}.pt"
            found[index, name] = trained(start, _shortened(COURSES["retrained"], length), kept)
    return found


def _shortened(course: Training, length: float) -> Training:
    return replace(course, steps=max(1, round(length * course.steps)))
