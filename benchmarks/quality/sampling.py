"""Sampling with a denoiser: DDIM (arXiv 2010.02502, Eq. 12 without noise), which is Euler's method for a flow."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .families import Family, State


@dataclass(frozen=True)
class Sampler:
    """Sampler settings. steps: of equal size in noise level. guidance: 1 skips the empty prompt and halves the cost."""

    steps: int = 20
    guidance: float = 2.0
    highest: float = 0.995

    def levels(self) -> Tensor:
        return torch.linspace(self.highest, 0, self.steps + 1)

    def sample(
        self, family: Family, model: nn.Module, weights: State, context: Tensor, seed: int
    ) -> tuple[Tensor, list[tuple[float, Tensor]]]:
        """Samples clean latents (n, 16, 8, 8) for prompts (n, 10, 384). Returns them and the (level, noised latents) of
        every step."""
        generator = torch.Generator().manual_seed(seed)
        now = torch.randn(len(context), 16, 8, 8, generator=generator)
        path: list[tuple[float, Tensor]] = []
        with torch.inference_mode():
            for level, following in self.levels().unfold(0, 2, 1).tolist():
                path.append((level, now))
                at = torch.full((len(now),), level)
                answer = family.predict(model, weights, now, at, context)
                if self.guidance != 1:
                    plain = family.predict(model, weights, now, at, torch.zeros_like(context))
                    answer = plain + self.guidance * (answer - plain)
                denoised = family.denoise(now, answer, at).clamp(-3, 3)
                now = family.add_noise(denoised, family.noise(denoised, answer), torch.full_like(at, following))
        return now.clone(), path
