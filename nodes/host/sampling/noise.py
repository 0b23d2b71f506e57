"""How a model mixes latents with noise, and the conversion of noised latents between two models.

Diffusion (eps, v): latent + sigma noise. Flow: (1 - s) latent + s noise. At the same ratio of noise to latent,
sigma = s / (1 - s), the two differ only by a factor: x_flow = x / (1 + sigma).
"""

from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ....core.errors import NotMeasurable
from ..base.names import describe_latents

# (noise, latent) in a noised latent at level 0.5 -> the name that people know this kind of noise by.
_NOISES = {(0.5, 1.0): "latent + 0.5 noise (diffusion: eps, v)", (0.5, 0.5): "0.5 latent + 0.5 noise (flow)"}
_DIFFUSION, _FLOW = _NOISES.values()
_LEAST = 0.004  # share of the schedule; below it nothing is left to learn, and differences are divided by nearly zero


def noise_of(model: Any) -> str:
    """A model's kind of noise in words. It is measured, because classes of other names may mix noise in the same
    way."""
    sampling, half = model.get_model_object("model_sampling"), torch.tensor(0.5)
    ends = ((torch.ones(1, 1), torch.zeros(1, 1)), (torch.zeros(1, 1), torch.ones(1, 1)))
    noise, latent = (round(float(sampling.noise_scaling(half, *end)), 4) for end in ends)
    return _NOISES.get((noise, latent), f"{latent:g} latent + {noise:g} noise")


def latent_space(model: Any) -> str:
    return describe_latents(model.get_model_object("latent_format"))


@dataclass(frozen=True)
class NoiseConversion:
    """Converts levels and noised latents from the source's kind of noise to the target's."""

    source: str
    target: str

    def levels(self, sigma: Tensor) -> Tensor:
        """The target's sigma at which the share of noise is the same."""
        if self.source == self.target:
            return sigma
        return sigma / (1 + sigma) if self.target == _FLOW else sigma / (1 - sigma)

    def states(self, states: Tensor, sigma: Tensor) -> Tensor:
        """The source's noised latents (n, ...) at its sigma (n), as the target would have them."""
        if self.source == self.target:
            return states
        factor = 1 / (1 + sigma) if self.target == _FLOW else 1 / (1 - sigma)
        return states * factor.reshape(-1, *(1 for _ in states.shape[1:]))

    def back(self) -> "NoiseConversion":
        return NoiseConversion(self.target, self.source)


def convert_noise(source: Any, target: Any) -> NoiseConversion:
    """The conversion from the source's noise to the target's. NotMeasurable if the kinds differ and one is unknown."""
    kinds = noise_of(source), noise_of(target)
    if kinds[0] != kinds[1] and not set(kinds) <= set(_NOISES.values()):
        raise NotMeasurable(
            f"Source and target: expected the same kind of noise, or diffusion and flow, found {kinds[0]} and "
            f"{kinds[1]}. Noised latents cannot be converted between these: choose another target."
        )
    return NoiseConversion(*kinds)


def levels_at(shares: list[float], source: Any, target: Any) -> Tensor:
    """The source's sigma (levels) at these shares of its schedule (1 is all noise), within what both models know."""
    sampling = source.get_model_object("model_sampling")
    levels = [float(sampling.percent_to_sigma(1 - max(_LEAST, share))) for share in shares]
    return torch.tensor(levels).clamp(*_range(source, target))


def choose_step_levels(steps: int, source: Any, target: Any) -> Tensor:
    """The source's sigma at the levels of the target's own sampling in so many steps, within what both models know. For
    a diffusion model, a flow's level of pure noise would be infinite."""
    own = comfy.samplers.calculate_sigmas(target.get_model_object("model_sampling"), "simple", steps)[:-1]
    return convert_noise(source, target).back().levels(own.float().cpu()).clamp(*_range(source, target))


def _range(source: Any, target: Any) -> tuple[float, float]:
    """The smallest and the largest of the source's sigma that both models know."""
    own = source.get_model_object("model_sampling")
    targets = target.get_model_object("model_sampling")
    back = convert_noise(source, target).back()
    ends = back.levels(torch.tensor([float(targets.sigma_min), float(targets.sigma_max)]))
    low, high = ends.tolist()
    return max(low, float(own.sigma_min)), min(high, float(own.sigma_max))
