"""Prepares an adapter's factors for training: balanced, and never zero in both up and down."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..delta import LowRankDelta
from ..linalg import NUMERICAL_RANK

# A zero factor has no size for its rate to be a share of, and gets this size. It was slightly better than 0.05 and 0.2
# (benchmarks/refine). It does not depend on the width, as derived for LoRA+ (arXiv 2402.12354).
_NEW_SIZE = 0.1
_LEAST_SIZE = 0.3  # the smallest size of a factor, as a share of the median size

Factors = Mapping[str, tuple[Tensor, Tensor]]  # up (m, r) and down (r, n) by layer


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


def measure_sizes(factors: Factors) -> list[float]:
    """The size of each factor, for rates: its root mean square, but at least a share of the median size."""
    sizes = [float(factor.detach().square().mean().sqrt()) for pair in factors.values() for factor in pair]
    nonzero = sorted(size for size in sizes if size > 0)
    least = _LEAST_SIZE * nonzero[len(nonzero) // 2] if nonzero else 0.0
    return [max(size, least) if size > 0 else _NEW_SIZE for size in sizes]


def copy_factors(factors: Factors) -> dict[str, LowRankDelta]:
    """Copy the current factors to main memory."""
    return {name: LowRankDelta(*(factor.detach().cpu().clone() for factor in pair)) for name, pair in factors.items()}
