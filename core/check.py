"""How much of an adapter's effect reaches the target: from what source and target predict on the same noised latents,
without the adapter (o_s, o_t) and with it (o_s', o_t'). It needs neither data nor training. Two figures answer two
questions:

Gap closed = 1 - ||o_t' - o_s'||^2 / ||o_t - o_s'||^2, the score: does the target now answer like the source with its
adapter? Undoing the drift between the bases counts too. It ranks methods like the recovered share of a training's gain.

G = 1 - ||D_t - D_s||^2 / ||D_s||^2 with D = o' - o (docs/method.md, section 9): does the adapter make the same change
on both bases? G takes a repaired drift for an error, because it looks at the change alone.

benchmarks/quality/RESULTS.md has both beside the recovered share.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import NotMeasurable
from .linalg import SAME_OUTPUT

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25)  # where a search looks; the copy between drifted bases was best at 0.5 to 0.75

Role = Literal["transferred", "more", "copy"]
Search = Literal["off", "strength"]


@dataclass(frozen=True)
class CheckSettings:
    """What a check runs on. seeds: how many noises, counted up from `seed`; timesteps: noise levels, evenly spread over
    the model's own; size: side in pixels of the square picture where no latent is given; search: "off" takes every
    adapter at strength 1, "strength" at each of STRENGTHS."""

    search: Search = "off"
    seed: int = 0
    seeds: int = 2
    timesteps: int = 6
    size: int = 512

    def strengths(self) -> tuple[float, ...]:
        return (1.0,) if self.search == "off" else STRENGTHS


@dataclass(frozen=True)
class Agreement:
    """How the target with its adapter follows the source with its own.

    gap_closed: the share of the way from the bare target to the source with its adapter: 1 is all of it, 0 is no nearer
    than without, below 0 is farther away; None if the bare target is there already.
    change_match: G, how well the change on the target, D_t, matches that on the source, D_s: 1 is the same change, 0 is
    as far from it as no change at all. cosine: <D_t, D_s> / (||D_t|| ||D_s||), 0 where D_t is zero. norm_ratio:
    ||D_t|| / ||D_s||.
    """

    gap_closed: float | None
    change_match: float
    cosine: float
    norm_ratio: float

    @property
    def score(self) -> float:
        """The gap closed, by which adapters and strengths are ranked; 0 where there is no gap."""
        return 0.0 if self.gap_closed is None else self.gap_closed


@dataclass(frozen=True)
class Attempt:
    """An adapter at one strength. levels: at each noise level, None where the source's output does not change there;
    pooled: over all of them."""

    strength: float
    levels: tuple[Agreement | None, ...]
    pooled: Agreement

    def as_json(self) -> dict[str, Any]:
        levels = [None if level is None else vars(level) for level in self.levels]
        return {"strength": self.strength, **vars(self.pooled), "levels": levels}


@dataclass(frozen=True)
class Trial:
    """One adapter on the target, tried at strength 1 and perhaps at others. label: its name in the report; applied: how
    much of it fits the target, in words."""

    role: Role
    label: str
    name: str
    fingerprint: str
    applied: str
    attempts: tuple[Attempt, ...]

    def as_it_is(self) -> Attempt:
        return next(one for one in self.attempts if one.strength == 1)

    def best(self) -> Attempt:
        """The strength of the best score; of equals the one nearest to 1."""
        return max(self.attempts, key=lambda one: (one.pooled.score, -abs(one.strength - 1)))

    def as_json(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "label": self.label,
            "adapter": {"name": self.name, "fingerprint": self.fingerprint},
            "applied": self.applied,
            "strengths": [one.as_json() for one in self.attempts],
        }


def difference(output: Tensor, other: Tensor, noise_levels: Tensor) -> Tensor:
    """output - other, two denoised predictions (levels, n, ...) at sigma (levels). Divided by sigma it is in the unit
    of the noise, whether the model predicts noise, velocity or a flow."""
    return (output - other) / noise_levels.reshape(-1, *(1 for _ in other.shape[1:]))


def measure(strength: float, on_target: Tensor, on_source: Tensor, apart: Tensor) -> Attempt:
    """Three differences (levels, n, ...) in one unit. on_target: D_t, what the adapter changes on the target;
    on_source: D_s; apart: the bare target less the source with its adapter, so that o_t' - o_s' = D_t + apart.
    NotMeasurable where D_s is zero (the adapter has no effect) or where a number is not finite."""
    levels = list(zip(on_target, on_source, apart, strict=True))
    sums = torch.stack([_sums(*level) for level in levels])  # (levels, 6)
    if not bool(sums.isfinite().all()):
        raise NotMeasurable(
            f"The models' outputs at strength {strength:g}: expected finite differences, found NaN or infinity. Load "
            "the models in another precision (bf16 or fp32), or look for a broken LoRA."
        )
    pooled = _agreement(sums.sum(0))
    if pooled is None:
        raise NotMeasurable(
            "The LoRA on the source model: expected it to change the model's output, found no change at any noise "
            "level. Check that it belongs to this model, and that it is not zero."
        )
    return Attempt(strength, tuple(_agreement(one) for one in sums), pooled)


def best_of(trials: Sequence[Trial]) -> Trial:
    """The adapter with the best score at its best strength; of equals the first."""
    return max(trials, key=lambda trial: trial.best().pooled.score)


def _sums(on_target: Tensor, on_source: Tensor, apart: Tensor) -> Tensor:
    """||D_s||^2, ||D_t||^2, ||D_t - D_s||^2, <D_t, D_s>, ||apart||^2 and ||D_t + apart||^2 in float64: torch sums
    float32 to five digits only."""
    target, source, way = on_target.double(), on_source.double(), apart.double()
    products = (source**2, target**2, (target - source) ** 2, target * source, way**2, (target + way) ** 2)
    return torch.stack([one.sum() for one in products])


def _agreement(sums: Tensor) -> Agreement | None:
    source, target, between, inner, way, left = (float(one) for one in sums)
    if source == 0:
        return None
    closed = None if way <= SAME_OUTPUT**2 * source else 1 - left / way
    cosine = inner / (source * target) ** 0.5 if target else 0.0
    return Agreement(closed, 1 - between / source, cosine, (target / source) ** 0.5)
