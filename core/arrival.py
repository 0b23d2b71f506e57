"""How much of an adapter's effect arrives: the change that it makes to its model's output, on the source and on the
target, over the same noised latents. It needs neither data nor retraining (method.md, section 6b, point 5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import NotMeasurable

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25)  # where a search looks; the copy between drifted bases was best at 0.5 to 0.75

Role = Literal["projected", "more", "copy"]
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
    """How the change on the target, D_t, follows that on the source, D_s.

    arrived: G = 1 - ||D_t - D_s||^2 / ||D_s||^2: 1 is all of it, 0 no better than no adapter, below 0 worse than none.
    cosine: <D_t, D_s> / (||D_t|| ||D_s||), 0 where D_t is zero. norm_ratio: ||D_t|| / ||D_s||.
    """

    arrived: float
    cosine: float
    norm_ratio: float


@dataclass(frozen=True)
class Arrival:
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
    """One adapter on the target at one strength or several, 1 among them. label: what people call it; applied: how
    much of it the target took, in words."""

    role: Role
    label: str
    name: str
    fingerprint: str
    applied: str
    arrivals: tuple[Arrival, ...]

    def as_it_is(self) -> Arrival:
        return next(one for one in self.arrivals if one.strength == 1)

    def best(self) -> Arrival:
        """The strength at which most arrives; of equals the one nearest to 1."""
        return max(self.arrivals, key=lambda one: (one.pooled.arrived, -abs(one.strength - 1)))

    def as_json(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "label": self.label,
            "adapter": {"name": self.name, "fingerprint": self.fingerprint},
            "applied": self.applied,
            "strengths": [one.as_json() for one in self.arrivals],
        }


def change(with_adapter: Tensor, without: Tensor, noise_levels: Tensor) -> Tensor:
    """What an adapter changes, (levels, n, ...), out of two denoised predictions of that shape and sigma (levels).
    Divided by sigma it is in the unit of the noise, whether the model predicts noise, velocity or a flow."""
    return (with_adapter - without) / noise_levels.reshape(-1, *(1 for _ in without.shape[1:]))


def measure(strength: float, on_target: Tensor, on_source: Tensor) -> Arrival:
    """Lay the change on the target, (levels, n, ...), beside that on the source. NotMeasurable where the latter is
    zero: there is no effect of which a part could arrive."""
    pairs = list(zip(on_target, on_source, strict=True))
    sums = torch.stack([_sums(*pair) for pair in pairs])  # (levels, 4)
    pooled = _agreement(sums.sum(0))
    if pooled is None:
        raise NotMeasurable(
            "The LoRA on the source model: expected it to change the model's output, found no change at any noise "
            "level. Check that it belongs to this model, and that it is not zero."
        )
    return Arrival(strength, tuple(_agreement(one) for one in sums), pooled)


def best_of(trials: Sequence[Trial]) -> Trial:
    """The adapter of which most arrives at its best strength; of equals the first."""
    return max(trials, key=lambda trial: trial.best().pooled.arrived)


def _sums(on_target: Tensor, on_source: Tensor) -> Tensor:
    """||D_s||^2, ||D_t||^2, ||D_t - D_s||^2 and <D_t, D_s> in float64: torch sums float32 to five digits only."""
    target, source = on_target.double(), on_source.double()
    products = (source * source, target * target, (target - source) ** 2, target * source)
    return torch.stack([one.sum() for one in products])


def _agreement(sums: Tensor) -> Agreement | None:
    source, target, between, inner = (float(one) for one in sums)
    if source == 0:
        return None
    cosine = inner / (source * target) ** 0.5 if target else 0.0
    return Agreement(1 - between / source, cosine, (target / source) ** 0.5)
