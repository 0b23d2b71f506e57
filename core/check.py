"""Measures how well an adapter works on the target, from the predictions of both models on the same noised latents.

o_s and o_t are the predictions of source and target without the adapter, o_s' and o_t' those with it. No data or
training is needed. Two figures answer two questions:

Gap closed = 1 - ||o_t' - o_s'||^2 / ||o_t - o_s'||^2: does the target now predict what the source with its adapter
predicts? This is the score. Undoing the drift between the bases counts too. It ranks methods in the same order as the
share of a retraining's gain that they recover.

G = 1 - ||D_t - D_s||^2 / ||D_s||^2 with D = o' - o (docs/method.md, section 9): does the adapter make the same change
on both bases? G counts an undone drift as an error, because it compares only the changes.

benchmarks/quality/RESULTS.md shows both next to the recovered share.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import NotMeasurable
from .linalg import SAME_OUTPUT

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25)  # tried in a search; between drifted bases the copy was best at 0.5 to 0.75

Role = Literal["transferred", "more", "copy"]
Search = Literal["off", "strength"]


@dataclass(frozen=True)
class CheckSettings:
    """The settings of a check.

    search: "off" tries every adapter at strength 1, "strength" at each of STRENGTHS. seed: of the first noise; `seeds`
    noises are used. timesteps: the number of noise levels, evenly spread over the model's schedule. size: side of the
    square picture in pixels, if no latent is given; 0: the size that the source was made for.
    """

    search: Search = "off"
    seed: int = 0
    seeds: int = 2
    timesteps: int = 6
    size: int = 0

    def strengths(self) -> tuple[float, ...]:
        return (1.0,) if self.search == "off" else STRENGTHS


@dataclass(frozen=True)
class Agreement:
    """How closely the target with its adapter follows the source with the original adapter.

    gap_closed: the share of the way from the bare target to the source with its adapter. 1 is the whole way, 0 is no
    closer than without the adapter, below 0 is farther away; None if the bare target has no gap to close.
    change_match: G, how well the change on the target, D_t, matches the change on the source, D_s. 1 is the same
    change, 0 is as far from it as no change. cosine: <D_t, D_s> / (||D_t|| ||D_s||), 0 where D_t is zero. norm_ratio:
    ||D_t|| / ||D_s||.
    """

    gap_closed: float | None
    change_match: float
    cosine: float
    norm_ratio: float

    @property
    def score(self) -> float:
        """The gap closed, which ranks adapters and strengths; 0 if there is no gap."""
        return 0.0 if self.gap_closed is None else self.gap_closed


@dataclass(frozen=True)
class Attempt:
    """An adapter at one strength. levels: its agreement at each noise level, None where the source's output does not
    change. pooled: its agreement over all levels."""

    strength: float
    levels: tuple[Agreement | None, ...]
    pooled: Agreement

    def as_json(self) -> dict[str, Any]:
        levels = [None if level is None else vars(level) for level in self.levels]
        return {"strength": self.strength, **vars(self.pooled), "levels": levels}


@dataclass(frozen=True)
class Trial:
    """One adapter on the target, at strength 1 and after a search at other strengths. label: its name in the report.
    applied: how much of it fits the target, in words."""

    role: Role
    label: str
    name: str
    fingerprint: str
    applied: str
    attempts: tuple[Attempt, ...]

    def at_strength_one(self) -> Attempt:
        return next(attempt for attempt in self.attempts if attempt.strength == 1)

    def best_attempt(self) -> Attempt:
        """The attempt with the best score; of equal scores the one with the strength closest to 1."""
        return max(self.attempts, key=lambda attempt: (attempt.pooled.score, -abs(attempt.strength - 1)))

    def as_json(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "label": self.label,
            "adapter": {"name": self.name, "fingerprint": self.fingerprint},
            "applied": self.applied,
            "strengths": [attempt.as_json() for attempt in self.attempts],
        }


def difference(output: Tensor, reference: Tensor, noise_levels: Tensor) -> Tensor:
    """(output - reference) / sigma of two denoised predictions (levels, n, ...) at sigma (levels).

    Dividing by sigma gives the unit of the noise, whether the model predicts noise, velocity or a flow.
    """
    return (output - reference) / noise_levels.reshape(-1, *(1 for _ in reference.shape[1:]))


def measure(strength: float, target_change: Tensor, source_change: Tensor, gap: Tensor) -> Attempt:
    """Measure an adapter at one strength from three differences (levels, n, ...) in the unit of the noise.

    target_change: D_t, what the adapter changes on the target. source_change: D_s. gap: o_t - o_s', the bare target
    minus the source with its adapter, so that o_t' - o_s' = D_t + gap. NotMeasurable if D_s is zero (the adapter has no
    effect) or a number is not finite.
    """
    levels = list(zip(target_change, source_change, gap, strict=True))
    sums = torch.stack([_sums(*level) for level in levels])  # (levels, 6)
    if not bool(sums.isfinite().all()):
        raise NotMeasurable(
            f"The models' outputs at strength {strength:g}: expected finite differences, found NaN or infinity. Load "
            "the models in another precision (bf16 or fp32), or check whether the LoRA is broken."
        )
    pooled = _agreement(sums.sum(0))
    if pooled is None:
        raise NotMeasurable(
            "The LoRA on the source model: expected it to change the model's output, found no change at any noise "
            "level. Check that it belongs to this model and that its strength is not zero."
        )
    return Attempt(strength, tuple(_agreement(level) for level in sums), pooled)


def best_trial(trials: Sequence[Trial]) -> Trial:
    """The trial with the best score at its best strength; of equal scores the first."""
    return max(trials, key=lambda trial: trial.best_attempt().pooled.score)


def _sums(target_change: Tensor, source_change: Tensor, gap: Tensor) -> Tensor:
    """||D_s||^2, ||D_t||^2, ||D_t - D_s||^2, <D_t, D_s>, ||gap||^2 and ||D_t + gap||^2 in float64: torch's float32 sums
    have only five digits."""
    target, source, wide_gap = target_change.double(), source_change.double(), gap.double()
    products = (source**2, target**2, (target - source) ** 2, target * source, wide_gap**2, (target + wide_gap) ** 2)
    return torch.stack([product.sum() for product in products])


def _agreement(sums: Tensor) -> Agreement | None:
    source, target, mismatch, inner, gap, remaining = (float(value) for value in sums)
    if source == 0:
        return None
    gap_closed = None if gap <= SAME_OUTPUT**2 * source else 1 - remaining / gap
    cosine = inner / (source * target) ** 0.5 if target else 0.0
    return Agreement(gap_closed, 1 - mismatch / source, cosine, (target / source) ** 0.5)
