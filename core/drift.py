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


@dataclass(frozen=True)
class Drift:
    """W_s - W_t where a delta acts: read = (W_s - W_t) V V^T and, of the rest, written = U U^T (W_s - W_t) (1 - V V^T),
    with U and V the orthonormal bases of the outputs that it writes and of the inputs that it reads."""

    read: LowRankDelta  # up (m, q), down V^T (q, n)
    written: LowRankDelta  # up U (m, q), down (q, n)

    def to(self, device: torch.device) -> "Drift":
        return Drift(self.read.to(device), self.written.to(device))

    def energy(self) -> float:
        """||read + written||^2: the two are orthogonal."""
        return self.read.energy() + self.written.energy()


def compare_weights(
    source: Tensor, target: Tensor, delta: LowRankDelta | None = None
) -> tuple[WeightFigures, Drift | None]:
    """The figures of two weights (m, n), and with a delta of that shape what the base's drift took where it acts."""
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
) -> tuple[WeightFigures, Drift | None]:
    """The same for weights that come as blocks of rows, from the first to the last."""
    bases = None if delta is None else delta.bases()  # writing (m, q), reading (n, q)
    squared_source = along_source = squared_difference = 0.0
    moved: list[Tensor] = []  # (W_t - W_s) V, by blocks of rows
    written: Tensor | None = None  # U^T (W_t - W_s)
    row = 0
    room: Tensor | None = None
    for one, other in blocks:
        # The difference is formed, not taken from products of the two: those would lose a small drift. In one place for
        # all blocks: new memory for each would cost as much as the products.
        room = torch.empty_like(one) if room is None else room
        difference = torch.sub(other, one, out=room[: len(one)])
        squared_source += _inner(one, one)
        along_source += _inner(one, difference)
        squared_difference += _inner(difference, difference)
        if bases is not None:
            moved.append(difference @ bases[1])
            part = bases[0][row : row + len(one)].mT @ difference
            written = part if written is None else written.add_(part)
            row += len(one)
    squared_target = max(0.0, squared_source + 2 * along_source + squared_difference)
    inner = squared_source + along_source
    norms = squared_source**0.5, squared_target**0.5
    known = norms[0] > 0 and norms[1] > 0
    cosine = inner / (norms[0] * norms[1]) if known else None
    figures = WeightFigures(cosine, squared_difference**0.5 / norms[0] if known else None, norms)
    return figures, None if bases is None or written is None else _drift(*bases, torch.cat(moved), written)


def _drift(writing: Tensor, reading: Tensor, moved: Tensor, written: Tensor) -> Drift:
    beside = written - (written @ reading) @ reading.mT
    return Drift(LowRankDelta(-moved, reading.mT.contiguous()), LowRankDelta(writing, -beside))


def _inner(one: Tensor, other: Tensor) -> float:
    return float(torch.dot(one.reshape(-1), other.reshape(-1)))
