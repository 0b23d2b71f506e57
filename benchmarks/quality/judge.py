"""Measures a LoRA on a base: losses on held-out subjects, and answers to compare with the source's."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .families import Family, State
from .latents import VARIANTS, Latents
from .sampling import Sampler

DRAWS = 4  # noise levels for each drawing of a LoRA of one subject


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

    def losses(self, model: nn.Module, weights: State, style: str, subjects: Sequence[int]) -> Tensor:
        """Mean squared errors (subjects) of the model's answers on these subjects' drawings in a style.

        Every variant of a drawing counts. Judged on the first variant alone, a LoRA gains by knowing where a drawing
        stands, which is not style and survives every transfer."""
        count = len(VARIANTS)
        # Each variant has a noise level of its own, and over the subjects every level.
        order = (torch.arange(count) + torch.arange(len(subjects))[:, None]) % count
        errors = self._errors(model, weights, style, subjects, range(count), order)
        return errors.view(len(subjects), count).mean(1)

    def losses_by_drawing(
        self, model: nn.Module, weights: State, style: str, subject: int, variants: Sequence[int], times: int
    ) -> Tensor:
        """Mean squared errors (times x variants) on these drawings of one subject, with other noise each time."""
        drawings = [variant for variant in variants for _ in range(DRAWS)]
        order = torch.arange(DRAWS).repeat(times, len(variants))
        errors = self._errors(model, weights, style, [subject] * times, drawings, order)
        return errors.view(-1, DRAWS).mean(1)

    def _errors(
        self,
        model: nn.Module,
        weights: State,
        style: str,
        subjects: Sequence[int],
        variants: Sequence[int],
        order: Tensor,
    ) -> Tensor:
        """Mean squared errors of each subject on each variant. order (subjects, variants): which of the evenly spread
        noise levels each has."""
        generator = torch.Generator().manual_seed(7)
        repeated = [subject for subject in subjects for _ in variants]
        level = (order + torch.rand(order.shape, generator=generator)) / (int(order.max()) + 1)
        clean = self.latents.styles[style][repeated, list(variants) * len(subjects)]
        noise = torch.randn(clean.shape, generator=generator)
        level = (0.02 + 0.96 * level).flatten()
        context = self.latents.context[repeated]
        answer = self.answers(model, weights, self.family.add_noise(clean, noise, level), level, context)
        return (answer - self.family.aim(clean, noise)).square().mean((1, 2, 3))

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
