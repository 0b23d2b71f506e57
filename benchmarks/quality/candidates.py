"""What is compared: the old LoRA as it is, every method over its settings, a random change."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.plan import TransferSettings
from core.subspace import RankRule

from .engine import Factors, Journey

HALF = RankRule("fraction", 0.5)
Carry = Callable[[Journey], Mapping[str, tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Candidate:
    """A name for the tables, and how the target's LoRA comes of the source's. group: which table it stands in."""

    name: str
    carry: Carry
    group: str = "methods"


def by(rule: RankRule = HALF, *, everywhere: bool = False, **settings: object) -> Carry:
    """The engine's own transfer, with nothing held back by a threshold unless one is given."""
    chosen = TransferSettings(**{"threshold": 0.0, **settings})  # pyright: ignore[reportArgumentType]
    return lambda journey: journey.carried(chosen, rule, everywhere=everywhere)


def by_name(method: str) -> Carry:
    """Layers paired by their names: what loading the old LoRA does."""
    return lambda journey: by(method=method)(replace(journey, match_by="names", _compared={}))


def _random(journey: Journey) -> Factors:
    """A random change of the copy's norm, layer by layer, and of its rank."""
    generator = torch.Generator().manual_seed(5)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for key, (up, down) in by(method="copy")(journey).items():
        other_up, other_down = torch.randn(up.shape, generator=generator), torch.randn(down.shape, generator=generator)
        share = (up @ down).norm() / (other_up @ other_down).norm().clamp(min=1e-12)
        found[key] = other_up * share, other_down
    return found


def _rules() -> list[Candidate]:
    rules = {
        "0.1": RankRule("fraction", 0.1),
        "0.5": HALF,
        "0.9": RankRule("fraction", 0.9),
        "energy 0.9": RankRule("energy", 0.9),
        "full": RankRule("fraction", 1.0),
    }
    return [
        Candidate(f"{method} {name}", by(rule, method=method), "rank rule")
        for method in ("lora_x", "prolora", "prolora_full", "rotate")
        for name, rule in rules.items()
    ]


def _strengths() -> list[Candidate]:
    return [
        Candidate(f"{method} x {gain:g}", by(method=method, gain=gain), "strength")
        for method in ("copy", "restore_both")
        for gain in (0.25, 0.5, 0.75, 1.25)
    ]


CANDIDATES: tuple[Candidate, ...] = (
    Candidate("copy", by(method="copy")),
    Candidate("copy, relative norm", by(method="copy", rescale="relative_norm")),
    Candidate("restore", by(method="restore")),
    Candidate("restore_both", by(method="restore_both")),
    Candidate("random, equal norm", _random),
    Candidate("copy, same names", by_name("copy"), "matching"),
    Candidate("restore_both everywhere", by(method="restore_both", everywhere=True), "matching"),
    *_rules(),
    *_strengths(),
    *(
        Candidate(f"{method}, threshold {threshold:g}", by(method=method, threshold=threshold), "threshold")
        for method in ("restore_both", "prolora_full")
        for threshold in (0.7, 0.8, 0.9)
    ),
)
