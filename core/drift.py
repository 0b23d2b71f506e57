"""Compares two weights: how alike they are, and how their difference changes what a LoRA reads and writes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .delta import LowRankDelta
from .errors import ShapeMismatch

# Number of values in a block: half a megabyte in float32, which stays in the processor's cache from one product to the
# next. Measured in fresh processes: blocks of half this size take 20 % longer, blocks of four times this size 50 %.
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
    """W_s - W_t where a delta acts: read = (W_s - W_t) V V^T, written = U U^T (W_s - W_t) (1 - V V^T).

    U (m, q), V (n, q): orthonormal bases of the outputs that the delta writes and of the inputs that it reads.
    """

    read: LowRankDelta  # up (m, q), down V^T (q, n)
    written: LowRankDelta  # up U (m, q), down (q, n)

    def to(self, device: torch.device) -> "Drift":
        return Drift(self.read.to(device), self.written.to(device))

    def energy(self) -> float:
        """||read + written||^2; the two parts are orthogonal."""
        return self.read.energy() + self.written.energy()


def compare_weights(
    source: Tensor, target: Tensor, delta: LowRankDelta | None = None
) -> tuple[WeightFigures, Drift | None]:
    """Compare two weights (m, n), and measure their drift where a delta of that shape acts.

    ShapeMismatch if the weights have different shapes.
    """
    if source.shape != target.shape:
        raise ShapeMismatch(
            f"Comparison of two weights: expected equal shapes, found {tuple(source.shape)} and {tuple(target.shape)}."
        )
    rows = block_rows(source.shape[1]) if source.device.type == "cpu" else len(source)
    starts = range(0, len(source), rows)
    return compare_blocks(((source[first : first + rows], target[first : first + rows]) for first in starts), delta)


def block_rows(columns: int) -> int:
    """The number of rows in a block of a weight with this many columns."""
    return max(1, _BLOCK // columns)


def compare_blocks(
    blocks: Iterable[tuple[Tensor, Tensor]], delta: LowRankDelta | None = None
) -> tuple[WeightFigures, Drift | None]:
    """As compare_weights, for weights that are read as blocks of rows, from the first row to the last."""
    bases = None if delta is None else delta.bases()  # U (m, q), V (n, q)
    squared_source = along_source = squared_difference = 0.0
    drift_on_inputs: list[Tensor] = []  # (W_t - W_s) V, by blocks of rows
    drift_on_outputs: Tensor | None = None  # U^T (W_t - W_s)
    row = 0
    buffer: Tensor | None = None
    for source, target in blocks:
        # Computing the drift from products of the two weights would lose a small drift in rounding. One buffer serves
        # all blocks: allocating one for each block takes as long as the products.
        buffer = torch.empty_like(source) if buffer is None else buffer
        difference = torch.sub(target, source, out=buffer[: len(source)])
        squared_source += _inner(source, source)
        along_source += _inner(source, difference)
        squared_difference += _inner(difference, difference)
        if bases is not None:
            drift_on_inputs.append(difference @ bases[1])
            part = bases[0][row : row + len(source)].mT @ difference
            drift_on_outputs = part if drift_on_outputs is None else drift_on_outputs.add_(part)
            row += len(source)
    squared_target = max(0.0, squared_source + 2 * along_source + squared_difference)
    inner = squared_source + along_source
    norms = squared_source**0.5, squared_target**0.5
    nonzero = norms[0] > 0 and norms[1] > 0
    cosine = inner / (norms[0] * norms[1]) if nonzero else None
    figures = WeightFigures(cosine, squared_difference**0.5 / norms[0] if nonzero else None, norms)
    if bases is None or drift_on_outputs is None:
        return figures, None
    return figures, _split_drift(*bases, torch.cat(drift_on_inputs), drift_on_outputs)


def measure_drifts(blocks: Iterable[tuple[Tensor, Tensor]], bases: Sequence[tuple[Tensor, Tensor]]) -> list[Drift]:
    """The drift of two weights where each of several deltas acts. The weights are read once for all of them.

    blocks: of rows of both weights, from the first row to the last. bases: U (m, q) and V (n, q) of each delta
    (LowRankDelta.bases). Each drift has the same bits as if it were measured alone.
    """
    on_inputs: list[list[Tensor]] = [[] for _ in bases]  # (W_t - W_s) V, by blocks of rows
    on_outputs: list[Tensor | None] = [None for _ in bases]  # U^T (W_t - W_s)
    row = 0
    for source, target in blocks:
        difference = target - source
        for index, (outputs, inputs) in enumerate(bases):
            on_inputs[index].append(difference @ inputs)
            part, before = outputs[row : row + len(source)].mT @ difference, on_outputs[index]
            on_outputs[index] = part if before is None else before.add_(part)
        row += len(source)
    return [
        _split_drift(*pair, torch.cat(products), written)
        for pair, products, written in zip(bases, on_inputs, on_outputs, strict=True)
        if written is not None
    ]


def _split_drift(outputs: Tensor, inputs: Tensor, on_inputs: Tensor, on_outputs: Tensor) -> Drift:
    """outputs: U. inputs: V. on_inputs: (W_t - W_s) V. on_outputs: U^T (W_t - W_s)."""
    on_outputs_only = on_outputs - (on_outputs @ inputs) @ inputs.mT
    return Drift(LowRankDelta(-on_inputs, inputs.mT.contiguous()), LowRankDelta(outputs, -on_outputs_only))


def _inner(first: Tensor, second: Tensor) -> float:
    return float(torch.dot(first.reshape(-1), second.reshape(-1)))
