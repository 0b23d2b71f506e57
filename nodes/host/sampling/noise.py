"""How a model mixes latent and noise, and one noised latent in the terms of two models.

diffusion (eps, v): latent + sigma noise; flow: (1 - s) latent + s noise. At equal ratios of noise to latent,
sigma = s / (1 - s), the two are the same but for a factor: x_flow = x / (1 + sigma).
"""

from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ....core.errors import NotMeasurable

# What a latent becomes at noise level 0.5, as (noise, latent), by the name that people know it by.
_NOISES = {(0.5, 1.0): "latent + 0.5 noise (diffusion: eps, v)", (0.5, 0.5): "0.5 latent + 0.5 noise (flow)"}
_DIFFUSION, _FLOW = _NOISES.values()
_LEAST = 0.004  # share of the schedule below which nothing is left to learn, and differences are divided by little


def noise_of(model: Any) -> str:
    """What a model's noise does to a latent, in words: measured, for a class of its own may do the same."""
    sampling, half = model.get_model_object("model_sampling"), torch.tensor(0.5)
    ends = ((torch.ones(1, 1), torch.zeros(1, 1)), (torch.zeros(1, 1), torch.ones(1, 1)))
    noise, latent = (round(float(sampling.noise_scaling(half, *end)), 4) for end in ends)
    return _NOISES.get((noise, latent), f"{latent:g} latent + {noise:g} noise")


def latent_space(model: Any) -> str:
    space = model.get_model_object("latent_format")
    return f"{type(space).__name__} ({space.latent_channels} channels)"


@dataclass(frozen=True)
class NoiseConversion:
    """Levels and noised latents from the source's terms to the target's, and back."""

    source: str
    target: str

    def levels(self, sigma: Tensor) -> Tensor:
        """The target's sigma with the source's share of noise."""
        if self.source == self.target:
            return sigma
        return sigma / (1 + sigma) if self.target == _FLOW else sigma / (1 - sigma)

    def states(self, states: Tensor, sigma: Tensor) -> Tensor:
        """Noised latents (n, ...) at the source's sigma (n) in the target's terms."""
        if self.source == self.target:
            return states
        factor = 1 / (1 + sigma) if self.target == _FLOW else 1 / (1 - sigma)
        return states * factor.reshape(-1, *(1 for _ in states.shape[1:]))

    def back(self) -> "NoiseConversion":
        return NoiseConversion(self.target, self.source)


def convert_noise(source: Any, target: Any) -> NoiseConversion:
    """NotMeasurable where the noises are of two kinds, one of which is not known."""
    kinds = noise_of(source), noise_of(target)
    if kinds[0] != kinds[1] and not set(kinds) <= set(_NOISES.values()):
        raise NotMeasurable(
            f"Source and target: expected noise of one kind, or of diffusion and of flow, found {kinds[0]} and "
            f"{kinds[1]}. What one model sees cannot be shown to the other."
        )
    return NoiseConversion(*kinds)


def levels_at(shares: list[float], source: Any, target: Any) -> Tensor:
    """The source's sigma at shares of its schedule (1 is all noise), within what both models know: (levels)."""
    sampling = source.get_model_object("model_sampling")
    found = [float(sampling.percent_to_sigma(1 - max(_LEAST, share))) for share in shares]
    return torch.tensor(found).clamp(*_range(source, target))


def choose_step_levels(steps: int, source: Any, target: Any) -> Tensor:
    """The source's sigma at the levels of the target's own sampling in so many steps, within what both models know: to
    a diffusion model a flow's level of all noise is infinite."""
    own = comfy.samplers.calculate_sigmas(target.get_model_object("model_sampling"), "simple", steps)[:-1]
    return convert_noise(source, target).back().levels(own.float().cpu()).clamp(*_range(source, target))


def _range(source: Any, target: Any) -> tuple[float, float]:
    """The least and the largest of the source's sigma that both models know."""
    own = source.get_model_object("model_sampling")
    other = target.get_model_object("model_sampling")
    back = convert_noise(source, target).back()
    ends = back.levels(torch.tensor([float(other.sigma_min), float(other.sigma_max)]))
    low, high = (float(one) for one in ends)
    return max(low, float(own.sigma_min)), min(high, float(own.sigma_max))
