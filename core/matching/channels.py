"""Finds which channels of a source layer a narrower target layer kept, from the weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..delta import LowRankDelta
from ..errors import ShapeMismatch
from .alignment import assign_all

# How far above chance the correlation of the channels must be: as a share of the way from chance to 1, and at least
# this much (with a handful of inputs, chance itself is near 1). From benchmarks/matching/RESULTS.md, "Width".
_SHARE, _LEAST = 0.3, 0.05

# Number of channels that are compared to see whether a known map fits at all, before all channels are assigned.
_PROBES = 48


@dataclass(frozen=True)
class Channels:
    """The channels that a target kept: its row i is row rows[i] of the source, its input channel j is columns[j].

    rows (m_t) and columns (n_t / taps) are int64, on the CPU. taps: matrix columns of one input channel (kh kw).
    correlation: mean over the assigned channels with their partners. chance: the mean correlation of source channels
    with the most similar other source channel.
    """

    rows: Tensor
    columns: Tensor
    taps: int
    correlation: float
    chance: float

    @property
    def shape(self) -> tuple[int, int]:
        """(m_t, n_t) of the target."""
        return len(self.rows), len(self.columns) * self.taps

    def weight(self, source: Tensor) -> Tensor:
        """The part (m_t, n_t) of a source weight (m_s, n_s) that the target kept."""
        return self._inputs(source[self.rows.to(source.device)])

    def delta(self, source: LowRankDelta) -> LowRankDelta:
        """The same part of a source layer's delta, in its factors: up[rows] . down[:, columns]."""
        return LowRankDelta(source.up[self.rows.to(source.up.device)], self._inputs(source.down))

    def why(self) -> str:
        """The reason for the match, in words."""
        return f"channels kept from the source: correlation {self.correlation:.2f}, chance {self.chance:.2f}"

    def _inputs(self, matrix: Tensor) -> Tensor:
        if matrix.shape[1] % self.taps:
            raise ShapeMismatch(
                f"Channels of a narrower layer: expected columns in groups of {self.taps}, found a matrix of shape "
                f"{tuple(matrix.shape)}."
            )
        return matrix.reshape(matrix.shape[0], -1, self.taps)[:, self.columns.to(matrix.device)].flatten(1)


def find_channels(
    source: Tensor, target: Tensor, row_maps: Sequence[Tensor], column_maps: Sequence[Tensor]
) -> Channels | None:
    """Find the channels of a target weight (m_t, in_t, taps) in a source weight (m_s, in_s, taps).

    row_maps (int64 (m_t) each), column_maps (int64 (in_t) each): known maps of one side. The map that fits best gives
    the other side, by the assignment of largest correlation. That side then gives the first side again, which corrects
    maps that are right in most channels only. None where no known map brings the other side well above chance.
    """
    weights, transposed = (source, target), (source.transpose(0, 1), target.transpose(0, 1))
    row_maps, column_maps = (
        [channel_map.to(source.device) for channel_map in maps] for maps in (row_maps, column_maps)
    )
    candidates = [
        *((_fit(source[:, columns], target), columns, True) for columns in column_maps),
        *((_fit(transposed[0][:, rows], transposed[1]), rows, False) for rows in row_maps),
    ]
    fit, known, from_columns = max(candidates, key=lambda candidate: candidate[0], default=(0.0, None, False))
    if known is None or fit <= 0:
        return None
    here, across = (weights, transposed) if from_columns else (transposed, weights)
    assigned = _assign(here[0][:, known], here[1])
    correlation, chance = _agreement(here[0][:, known], here[1], assigned)
    if correlation - chance < max(_LEAST, _SHARE * (1 - chance)):
        return None
    known = _assign(across[0][:, assigned], across[1])
    rows, columns = (assigned, known) if from_columns else (known, assigned)
    return Channels(rows.cpu(), columns.cpu(), source.shape[2], correlation, chance)


def _fit(source: Tensor, target: Tensor) -> float:
    """How far the correlation of a few target rows with their best partners is above the acceptance limit."""
    probes = target[:: -(-len(target) // _PROBES)]
    reached, chance = float(_correlations(source, probes).max(1).values.mean()), _chance(source)
    return reached - chance - max(_LEAST, _SHARE * (1 - chance))


def _assign(source: Tensor, target: Tensor) -> Tensor:
    """Assign a different row of the source (s, d, taps) to each row of the target (t, d, taps), s >= t: int64 (t)."""
    return assign_all(_correlations(source, target))


def _agreement(source: Tensor, target: Tensor, rows: Tensor) -> tuple[float, float]:
    """The mean correlation of the target's rows with their partners, and its chance level."""
    partners = (_unit_rows(source[rows]) * _unit_rows(target)).sum(1)
    return float(partners.mean()), _chance(source)


def _chance(source: Tensor) -> float:
    """The mean correlation of a few source rows with the most similar other row. Shuffled weights would give too low a
    level: the first filters of all networks are smooth, and shuffling makes them rough."""
    step = -(-len(source) // _PROBES)
    correlations = _correlations(source, source[::step])
    own = torch.arange(len(correlations), device=source.device)
    correlations[own, own * step] = -1
    return float(correlations.max(1).values.mean())


def _correlations(source: Tensor, target: Tensor) -> Tensor:
    """Correlations (t, s) of all target rows with all source rows."""
    return _unit_rows(target) @ _unit_rows(source).mT


def _unit_rows(weight: Tensor) -> Tensor:
    flat = weight.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    return torch.nn.functional.normalize(centred)
