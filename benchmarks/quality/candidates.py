"""The candidates that are compared: the old LoRA unchanged, every method with its settings, a random change."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.plan import TransferSettings
from core.subspace import RankRule

from .engine import Factors, TransferJob

HALF = RankRule("fraction", 0.5)
Transfer = Callable[[TransferJob], Mapping[str, tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Candidate:
    """A way to make the target's LoRA from the source's. name: in the tables. group: the table that shows it."""

    name: str
    transfer: Transfer
    group: str = "methods"


def by(rule: RankRule = HALF, *, everywhere: bool = False, **settings: object) -> Transfer:
    """Transfers with the engine. No layer is held back, unless the settings name a threshold."""
    transfer_settings = TransferSettings(**{"threshold": 0.0, **settings})  # pyright: ignore[reportArgumentType]
    return lambda job: job.transfer(transfer_settings, rule, everywhere=everywhere)


def by_name(method: str) -> Transfer:
    """Pairs layers by their names, as loading the old LoRA does."""
    return lambda job: by(method=method)(replace(job, match_by="names", _comparisons={}))


def _random(job: TransferJob) -> Factors:
    """A random change that has the copy's norm and rank in every layer."""
    generator = torch.Generator().manual_seed(5)
    random: dict[str, tuple[Tensor, Tensor]] = {}
    for key, (up, down) in by(method="copy")(job).items():
        random_up, random_down = (
            torch.randn(up.shape, generator=generator),
            torch.randn(down.shape, generator=generator),
        )
        share = (up @ down).norm() / (random_up @ random_down).norm().clamp(min=1e-12)
        random[key] = random_up * share, random_down
    return random


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
