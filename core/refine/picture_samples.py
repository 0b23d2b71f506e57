"""Noised pictures to learn from: which picture each row shows, how much noise it has, and what is held out."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_FEWEST = 16  # pictures from which on some are held out; fewer are all trained on
_HELD_OUT, _MOST_HELD_OUT = 1 / 8, 32  # share and largest number of the pictures that only the score sees
_LEVELS = 8  # noise levels of each picture in the score
_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples cover the schedule evenly, however many there are
_WITHOUT_CAPTION = 0.1  # share of the rows with the empty prompt, which guidance needs


@dataclass(frozen=True)
class PictureRows:
    """The rows of a training; the last `held_out` are only for the score.

    pictures: the number of the picture in each row. shares: how much of the noise schedule, in (0, 1), where 1 is all
    noise. without_caption: whether a row has the empty prompt. pictures_held_out: pictures that are not trained on; 0
    if the score sees the same pictures with other noise.
    """

    pictures: Tensor
    shares: Tensor
    without_caption: Tensor
    held_out: int
    pictures_held_out: int


@dataclass(frozen=True)
class PictureSamples:
    """What the student learns of noised pictures: the clean latent (channels, ...) of each row's picture. The latents
    may have different sizes."""

    latents: Sequence[Tensor]
    pictures: Tensor
    levels: Tensor
    held_out: int
    gap: float

    def aims(self, picks: Tensor) -> Tensor:
        return torch.stack([self.latents[int(picture)] for picture in self.pictures[picks]]).float()

    def split(self, picks: Tensor, rows: int) -> Sequence[Tensor]:
        return split_by_shape(self.latents, self.pictures, picks, rows)


def plan_rows(pictures: int, training_rows: int, seed: int, *, has_empty_prompt: bool) -> PictureRows:
    """Choose what each row shows: every picture is used once before any is used again, and both parts of the rows cover
    the noise schedule evenly."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(pictures, generator=generator)
    count = _count_held_out(pictures)
    scored, trained = (order[:count], order[count:]) if count else (order, order)
    rounds = [torch.randperm(len(trained), generator=generator) for _ in range(math.ceil(training_rows / len(trained)))]
    shown = trained[torch.cat(rounds)[:training_rows]]
    shares = ((torch.arange(training_rows) + 0.5) * _GOLDEN).remainder(1)
    dropped = (torch.rand(training_rows, generator=generator) < _WITHOUT_CAPTION) & has_empty_prompt
    offsets = ((torch.arange(len(scored)) + 0.5) * _GOLDEN).remainder(1)
    scored_shares = ((torch.arange(_LEVELS) + offsets[:, None]) / _LEVELS).flatten()
    return PictureRows(
        torch.cat([shown, scored.repeat_interleave(_LEVELS)]),
        torch.cat([shares, scored_shares]),
        torch.cat([dropped, torch.zeros(len(scored_shares), dtype=torch.bool)]),
        len(scored_shares),
        count,
    )


def split_by_shape(latents: Sequence[Tensor], pictures: Tensor, picks: Tensor, rows: int) -> list[Tensor]:
    """The picks in parts of at most so many rows, whose pictures have the same shape."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for pick in _integers(picks):
        by_shape.setdefault(tuple(latents[int(pictures[pick])].shape), []).append(pick)
    return [
        torch.tensor(same[first : first + rows]) for same in by_shape.values() for first in range(0, len(same), rows)
    ]


def _count_held_out(pictures: int) -> int:
    return 0 if pictures < _FEWEST else min(_MOST_HELD_OUT, round(pictures * _HELD_OUT))


def _integers(tensor: Tensor) -> Iterable[int]:
    return (int(value) for value in tensor)
