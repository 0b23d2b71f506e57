"""The inputs of a training on pictures: each row is a picture with noise of its own, made when the row is needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.sample
import torch
from torch import Tensor

from ....core.refine.picture_samples import PictureRows
from ..sampling.noise import levels_at
from .dataset import Dataset


@dataclass(frozen=True)
class NoisedPictures:
    """latents: clean, (channels, ...); pictures, levels, prompts: of each row; sampling: how the model mixes a latent
    with noise; first_scored: the first row that is only for the score; seed: of its noise. Rows are counted from there,
    so that scores have the same noise whatever the number of steps."""

    latents: Sequence[Tensor]
    pictures: Tensor
    levels: Tensor
    prompts: Tensor
    sampling: Any
    first_scored: int
    seed: int

    @property
    def shape(self) -> Sequence[int]:
        return max((latent.shape for latent in self.latents), key=lambda shape: shape.numel())

    def rows(self, picks: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        states = torch.cat([self._add_noise(int(row)) for row in picks])
        return states, self.levels[picks], self.prompts[picks].tolist()

    def _add_noise(self, row: int) -> Tensor:
        latent = self.latents[int(self.pictures[row])][None]
        noise: Any = comfy.sample.prepare_noise(latent, (self.seed + row - self.first_scored) % 2**64)
        return self.sampling.noise_scaling(self.levels[row], noise, latent)


def add_noise_to_pictures(model: Any, dataset: Dataset, rows: PictureRows, seed: int) -> NoisedPictures:
    """The rows of a training, for a model and its kind of noise."""
    captions = torch.tensor(dataset.captions)[rows.pictures]
    if dataset.without_caption:
        captions = torch.where(rows.without_caption, torch.tensor(dataset.without_caption)[rows.pictures], captions)
    levels = levels_at(rows.shares.tolist(), model, model)
    sampling = model.get_model_object("model_sampling")
    first_scored = len(rows.pictures) - rows.held_out
    return NoisedPictures(dataset.latents, rows.pictures, levels, captions, sampling, first_scored, seed)
