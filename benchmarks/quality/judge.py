"""Measures a LoRA on a base: losses on held-out subjects, and answers to compare with the source's."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .families import Family, State
from .latents import Latents
from .sampling import Sampler

DRAWS = 4  # noise levels for each drawing, each with its own noise


@dataclass(frozen=True)
class States:
    """Noised latents on which two models are compared: noised (levels, n, 16, 8, 8), level (levels), context
    (n, 10, 384)."""

    noised: Tensor
    level: Tensor
    context: Tensor

    def flat(self) -> tuple[Tensor, Tensor, Tensor]:
        levels, count = self.noised.shape[:2]
        context = self.context.expand(levels, -1, -1, -1).flatten(0, 1)
        return self.noised.flatten(0, 1), self.level.repeat_interleave(count), context


@dataclass(frozen=True)
class Judge:
    """Denoises the same noised drawings with every set of weights, so that differences are not due to chance."""

    family: Family
    latents: Latents

    def losses(
        self, model: nn.Module, weights: State, style: str, subjects: Sequence[int], variants: Sequence[int] = (0,)
    ) -> Tensor:
        """Mean squared errors (subjects x variants) of the model's answers on these drawings of a style."""
        generator = torch.Generator().manual_seed(7)
        repeated = [subject for subject in subjects for _ in variants]
        count, drawings = len(repeated), [variant for _ in subjects for variant in variants]
        level = (torch.arange(DRAWS) + torch.rand(count, DRAWS, generator=generator)) / DRAWS
        clean = self.latents.styles[style][repeated, drawings].repeat_interleave(DRAWS, 0)
        context = self.latents.context[repeated].repeat_interleave(DRAWS, 0)
        noise = torch.randn(clean.shape, generator=generator)
        level = (0.02 + 0.96 * level).flatten()
        answer = self.answers(model, weights, self.family.add_noise(clean, noise, level), level, context)
        return (answer - self.family.aim(clean, noise)).square().mean((1, 2, 3)).view(count, -1).mean(1)

    def noise_real_drawings(self, style: str, subjects: Sequence[int], levels: int = 6) -> States:
        """Noised real drawings of a style."""
        generator = torch.Generator().manual_seed(9)
        clean = self.latents.styles[style][list(subjects), 0].expand(levels, -1, -1, -1, -1)
        level = (torch.arange(levels) + 0.5) / levels
        noise = torch.randn(clean.shape, generator=generator)
        flat = self.family.add_noise(clean.flatten(0, 1), noise.flatten(0, 1), level.repeat_interleave(len(subjects)))
        return States(flat.view(clean.shape), level, self.latents.context[list(subjects)])

    def sample_states(self, model: nn.Module, weights: State, subjects: Sequence[int], levels: int = 6) -> States:
        """The noised latents on the way when a model draws these subjects in a few steps, as in Check Transfer."""
        context = self.latents.context[list(subjects)]
        _, path = Sampler(levels, guidance=1.0).sample(self.family, model, weights, context, seed=9)
        return States(torch.stack([noised for _, noised in path]), torch.tensor([level for level, _ in path]), context)

    def answers_on(self, model: nn.Module, weights: State, states: "States") -> Tensor:
        """The model's answers (levels, n, 16, 8, 8), in units of the noise in both families."""
        return self.answers(model, weights, *states.flat()).view(states.noised.shape)

    def answers(self, model: nn.Module, weights: State, noised: Tensor, level: Tensor, context: Tensor) -> Tensor:
        """The model's answer (n, 16, 8, 8)."""
        with torch.inference_mode():
            parts = zip(noised.split(96), level.split(96), context.split(96), strict=True)
            return torch.cat([self.family.predict(model, weights, *part) for part in parts])


def recovered(without: Tensor, transferred: Tensor, trained: Tensor) -> float:
    """The share of a trained LoRA's gain in loss that a transferred LoRA reaches; all three are losses by subject."""
    return float((without.mean() - transferred.mean()) / (without.mean() - trained.mean()))
