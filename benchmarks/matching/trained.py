"""Small trained bases: unrelated ones of six seeds, and children of each at graded drift."""

from dataclasses import dataclass
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


def families(folder: Path, count: int = 6, courses: tuple[str, ...] = tuple(COURSES)) -> list[Family]:
    """Train what is missing: about a minute for each family on one core; later runs read it."""
    found: list[Family] = []
    for seed in range(count):
        base = trained(None, Training("discs", 500, 2e-3, seed), folder / f"base{seed}.pt")
        children = {name: trained(base, COURSES[name], folder / f"base{seed}_{name}.pt") for name in courses}
        found.append(Family(base, children))
    return found
