"""Two weights beside each other: how alike they are, and what their difference does to the inputs that a LoRA reads."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .delta import LowRankDelta
from .errors import ShapeMismatch

# Values of a weight worked on at once: half a megabyte in float32, few enough to stay in the processor's cache from one
# product to the next. Measured in fresh processes: half of it costs a fifth more, four times it half as much again.
_BLOCK = 1 << 17


@dataclass(frozen=True)
class WeightFigures:
    """cosine: <W_s, W_t> / (||W_s|| ||W_t||); drift: ||W_t - W_s|| / ||W_s||; norms: ||W_s||, ||W_t|| (Frobenius).

    cosine and drift are None where a weight is zero.
    """

    cosine: float | None
    drift: float | None
    norms: tuple[float, float]


def compare_weights(
    source: Tensor, target: Tensor, delta: LowRankDelta | None = None
) -> tuple[WeightFigures, LowRankDelta | None]:
    """The figures of two weights (m, n), and with a delta of that shape (W_s - W_t) V V^T, V the orthonormal basis of
    the inputs that it reads: what the base's drift took from them."""
    if source.shape != target.shape:
        raise ShapeMismatch(f"Weights of shapes {tuple(source.shape)} and {tuple(target.shape)} cannot be compared.")
    rows = block_rows(source.shape[1]) if source.device.type == "cpu" else len(source)
    starts = range(0, len(source), rows)
    return compare_blocks(((source[first : first + rows], target[first : first + rows]) for first in starts), delta)


def block_rows(columns: int) -> int:
    """How many rows of a weight are worked on at once."""
    return max(1, _BLOCK // columns)


def compare_blocks(
    blocks: Iterable[tuple[Tensor, Tensor]], delta: LowRankDelta | None = None
) -> tuple[WeightFigures, LowRankDelta | None]:
    """The same for weights that come as blocks of rows, from the first to the last."""
    reading = None if delta is None else delta.row_basis()  # (n, q)
    squared_source = along_source = squared_difference = 0.0
    drifts: list[Tensor] = []
    room: Tensor | None = None
    for one, other in blocks:
        # The difference is formed, not taken from products of the two: those would lose a small drift. In one place for
        # all blocks: new memory for each would cost as much as the products.
        room = torch.empty_like(one) if room is None else room
        difference = torch.sub(other, one, out=room[: len(one)])
        squared_source += _inner(one, one)
        along_source += _inner(one, difference)
        squared_difference += _inner(difference, difference)
        if reading is not None:
            drifts.append(difference @ reading)
    squared_target = max(0.0, squared_source + 2 * along_source + squared_difference)
    inner = squared_source + along_source
    norms = squared_source**0.5, squared_target**0.5
    known = norms[0] > 0 and norms[1] > 0
    cosine = inner / (norms[0] * norms[1]) if known else None
    figures = WeightFigures(cosine, squared_difference**0.5 / norms[0] if known else None, norms)
    return figures, None if reading is None else LowRankDelta(-torch.cat(drifts), reading.mT.contiguous())


def _inner(one: Tensor, other: Tensor) -> float:
    return float(torch.dot(one.reshape(-1), other.reshape(-1)))
