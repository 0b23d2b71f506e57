"""Factors that a training starts from: balanced, and never zero in both up and down."""

import math

import torch
from torch import Tensor

from ..delta import LowRankDelta
from ..linalg import NUMERICAL_RANK


def balance_factors(delta: LowRankDelta, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Balanced factors up (m, r) and down (r, n) of a delta of rank r.

    Directions with a singular value of about 0 get a zero up and a random down: if both were zero, there would be no
    gradient.
    """
    left, values, right = delta.svd()
    short = delta.rank - len(values)
    if short > 0:
        left, right = (torch.nn.functional.pad(basis, (0, short)) for basis in (left, right))
        values = torch.nn.functional.pad(values, (0, short))
    root = values.sqrt()
    empty = values <= NUMERICAL_RANK * values.max().clamp(min=torch.finfo(values.dtype).tiny)
    down = (right * root).mT
    new_down = _random_down(delta.shape[1], delta.rank, generator).to(down)
    # up must be exactly zero: with rounding errors of 1e-7, sqrt(1e-7) times a random down is 1e-4 of the delta
    return (left * root * ~empty).contiguous(), torch.where(empty[:, None], new_down, down).contiguous()


def make_zero_factors(shape: tuple[int, int], rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A zero up (m, r) and a random down (r, n), as for a new LoRA; r is at most min(m, n)."""
    rank = min(rank, *shape)
    return torch.zeros(shape[0], rank), _random_down(shape[1], rank, generator)


def _random_down(width: int, rank: int, generator: torch.Generator) -> Tensor:
    """Kaiming initialisation with a = sqrt(5), as in peft and sd-scripts: variance 1 / (3 n)."""
    return (2 * torch.rand(rank, width, generator=generator) - 1) / math.sqrt(width)
