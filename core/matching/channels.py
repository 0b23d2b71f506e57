"""A target of another width: which of the source's channels it kept, where that can be told from the weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..delta import LowRankDelta
from ..errors import ShapeMismatch
from .alignment import assign_all

# How far above chance the correlation of the channels must lie, as a share of the way from chance to 1, and at least
# absolutely (with a handful of inputs chance itself is near 1): benchmarks/matching/RESULTS.md, "Width".
_SHARE, _LEAST = 0.3, 0.05

# Channels that are looked at to tell whether a known map fits at all, before all of them are assigned.
_PROBES = 48


@dataclass(frozen=True)
class Channels:
    """Row i of the target is row rows[i] of the source, input channel j is columns[j]; a channel has `taps` columns.

    rows (m_t) and columns (n_t / taps) are int64, on the CPU. correlation: mean over the channels that were looked for,
    with their partners; chance: what the source's own channels reach with the most alike of the others.
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
        """The part of a source weight (m_s, n_s) that the target kept, (m_t, n_t)."""
        return self._inputs(source[self.rows.to(source.device)])

    def delta(self, source: LowRankDelta) -> LowRankDelta:
        """The same part of a source layer's delta, in its factors: up[rows] . down[:, columns]."""
        return LowRankDelta(source.up[self.rows.to(source.up.device)], self._inputs(source.down))

    def why(self) -> str:
        return f"channels kept from the source: correlation {self.correlation:.2f}, chance {self.chance:.2f}"

    def _inputs(self, matrix: Tensor) -> Tensor:
        if matrix.shape[1] % self.taps:
            raise ShapeMismatch(f"Expected columns in groups of {self.taps}, found a matrix {tuple(matrix.shape)}.")
        return matrix.reshape(matrix.shape[0], -1, self.taps)[:, self.columns.to(matrix.device)].flatten(1)


def find_channels(
    source: Tensor, target: Tensor, row_maps: Sequence[Tensor], column_maps: Sequence[Tensor]
) -> Channels | None:
    """The channels of a target weight (m_t, in_t, taps) in a source weight (m_s, in_s, taps), from known maps of one
    side (int64 (m_t) or (in_t)); None where none of them brings the other side far above chance.

    The known map that fits best gives the other side, by the assignment of largest correlation; that side then gives
    the first anew: a map that is right in most channels only is put right.
    """
    turned = source.transpose(0, 1), target.transpose(0, 1)
    row_maps, column_maps = ([known.to(source.device) for known in maps] for maps in (row_maps, column_maps))
    by_columns = [(_fit(source[:, known], target), known) for known in column_maps]
    by_rows = [(_fit(turned[0][:, known], turned[1]), known) for known in row_maps]
    fit, known, from_columns = max(
        [*((*one, True) for one in by_columns), *((*one, False) for one in by_rows)],
        key=lambda one: one[0],
        default=(0.0, None, False),
    )
    if known is None or fit <= 0:
        return None
    one, other = ((source, target), turned) if from_columns else (turned, (source, target))
    found = _assign(one[0][:, known], one[1])
    correlation, chance = _agreement(one[0][:, known], one[1], found)
    if correlation - chance < max(_LEAST, _SHARE * (1 - chance)):
        return None
    known = _assign(other[0][:, found], other[1])
    rows, columns = (found, known) if from_columns else (known, found)
    return Channels(rows.cpu(), columns.cpu(), source.shape[2], correlation, chance)


def _fit(source: Tensor, target: Tensor) -> float:
    """How far above the least that is accepted the best partners of a few target rows correlate."""
    probes = target[:: -(-len(target) // _PROBES)]
    reached, chance = float(_correlations(source, probes).max(1).values.mean()), _chance(source)
    return reached - chance - max(_LEAST, _SHARE * (1 - chance))


def _assign(source: Tensor, target: Tensor) -> Tensor:
    """For each row of the target (t, d, taps) a row of its own of the source (s, d, taps), s >= t: int64 (t)."""
    return assign_all(_correlations(source, target))


def _agreement(source: Tensor, target: Tensor, rows: Tensor) -> tuple[float, float]:
    """The mean correlation of the target's rows with their partners, and its chance level."""
    partners = (_unit_rows(source[rows]) * _unit_rows(target)).sum(1)
    return float(partners.mean()), _chance(source)


def _chance(source: Tensor) -> float:
    """What a few rows of the source reach with the most alike of the other rows. Shuffled weights would not do: the
    first filters of any two networks are smooth alike, and shuffling makes them rough."""
    step = -(-len(source) // _PROBES)
    correlations = _correlations(source, source[::step])
    own = torch.arange(len(correlations), device=source.device)
    correlations[own, own * step] = -1
    return float(correlations.max(1).values.mean())


def _correlations(source: Tensor, target: Tensor) -> Tensor:
    """(t, s): of all rows of the target with all rows of the source."""
    return _unit_rows(target) @ _unit_rows(source).mT


def _unit_rows(weight: Tensor) -> Tensor:
    flat = weight.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    return torch.nn.functional.normalize(centred)
