"""The factors of an adapter as an optimiser takes them: balanced, and never with a gradient that is zero on both."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..delta import LowRankDelta
from ..linalg import NUMERICAL_RANK

# A factor that is zero has no size to take a share of: its step is that of a factor of this size. Of 0.05, 0.1 and 0.2
# it was best by a little (benchmarks/refine). The same at every width, as LoRA+ derives it (arXiv 2402.12354).
_FRESH_SIZE = 0.1
_LEAST_SIZE = 0.3  # a layer's factors count as no smaller than this share of the median layer's

Factors = Mapping[str, tuple[Tensor, Tensor]]  # up (m, r) and down (r, n) by layer


def balance_factors(delta: LowRankDelta, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Balanced factors of a delta at its own rank. Directions without weight get up zero and a random down, for where
    both factors are zero there is no gradient."""
    left, values, right = delta.svd()
    short = delta.rank - len(values)
    if short > 0:
        left, right = (torch.nn.functional.pad(one, (0, short)) for one in (left, right))
        values = torch.nn.functional.pad(values, (0, short))
    root = values.sqrt()
    empty = values <= NUMERICAL_RANK * values.max().clamp(min=torch.finfo(values.dtype).tiny)
    down = (right * root).mT
    fresh = _fresh_down(delta.shape[1], delta.rank, generator).to(down)
    # up zero, not its rounding: the root of 1e-7 times a random down would be 1e-4 of the delta
    return (left * root * ~empty).contiguous(), torch.where(empty[:, None], fresh, down).contiguous()


def make_zero_factors(shape: tuple[int, int], rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """up (m, r) zeros and down (r, n) random: no change yet, as LoRAs start."""
    rank = min(rank, *shape)
    return torch.zeros(shape[0], rank), _fresh_down(shape[1], rank, generator)


def _fresh_down(width: int, rank: int, generator: torch.Generator) -> Tensor:
    """Kaiming's start with a = sqrt(5), as peft and sd-scripts give it: variance 1 / (3 n)."""
    return (2 * torch.rand(rank, width, generator=generator) - 1) / math.sqrt(width)


def measure_sizes(factors: Factors) -> list[float]:
    """What a rate is a share of, factor by factor: its root mean square, and no less than a share of the median one."""
    sizes = [float(one.detach().square().mean().sqrt()) for pair in factors.values() for one in pair]
    weighing = sorted(size for size in sizes if size > 0)
    least = _LEAST_SIZE * weighing[len(weighing) // 2] if weighing else 0.0
    return [max(size, least) if size > 0 else _FRESH_SIZE for size in sizes]


def copy_factors(factors: Factors) -> dict[str, LowRankDelta]:
    """The factors as they are now, copied to main memory."""
    return {name: LowRankDelta(*(one.detach().cpu().clone() for one in pair)) for name, pair in factors.items()}
