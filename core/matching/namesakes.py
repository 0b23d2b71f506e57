"""Confirms from a few rows of every block that blocks of the same name belong together.

Most targets are fine-tunes, in which every block kept its name. Their names are confirmed from a few rows at a
twentieth of what all scores cost. Blocks of every other target are compared in full (by_block).
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..layers import Base, Layer, Rows, read_parts
from .blocks import Block, Kind
from .decisions import ScoredKind
from .scores import MEASURES, unit_vector

# The weights of a role in this many values, read from so many places of the weight: a score from 65,000 values has a
# standard deviation of 0.004 between unrelated weights.
_VALUES, _PLACES = 1 << 16, 2

# How far a namesake's score must be above the floor and above every other block's score. Ten standard deviations, and
# below the distance between relatives (at least 0.35) and the highest scores of strangers (0.2).
_CLEAR = 0.05


def confirm_names(
    source: Base, target: Base, kind: Kind, roles: Sequence[str], *, on_read: Callable[[Layer], None]
) -> ScoredKind | None:
    """The kind with scores from a few rows of these roles, if they show that every block goes to its namesake; else
    None.

    Every block is compared with every block, so that two exchanged blocks are noticed wherever they are.
    """
    if not roles or [block.name for block in kind.sources] != [block.name for block in kind.targets]:
        return None
    tables = [_score_rows(source, target, kind, role, on_read) for role in roles]
    scores = torch.stack(tables).nanmean(0)
    values = sum(_count_values(kind.sources[0].layers[role]) for role in roles)
    floor = max(MEASURES["weight_cosine"].floor, 8 / math.sqrt(values))
    return ScoredKind(kind, scores, floor, sampled=True) if _is_clear(scores, floor) else None


def _is_clear(scores: Tensor, floor: float) -> bool:
    """Whether each block of the target is clearly most like its namesake. Then no other assignment has a larger sum."""
    own = scores.diagonal()
    others = scores.clone().fill_diagonal_(-math.inf).max(0).values  # NaN if any score is unknown
    return bool((own >= floor + _CLEAR).all() and (own >= others + _CLEAR).all())


def _score_rows(source: Base, target: Base, kind: Kind, role: str, on_read: Callable[[Layer], None]) -> Tensor:
    """Scores (sources, targets) of one role; NaN where a weight shows nothing."""

    def read_vectors(base: Base, blocks: Sequence[Block]) -> Iterator[Tensor]:
        for block in blocks:
            layer = block.layers[role]
            on_read(layer)
            rows = torch.cat(list(read_parts(base, layer, sample_rows(layer))))
            vector = unit_vector(rows, "weight_cosine", side=rows.numel())
            yield torch.full((rows.numel(),), torch.nan) if vector is None else vector

    sides = (torch.stack(list(read_vectors(*side))) for side in ((source, kind.sources), (target, kind.targets)))
    first, second = sides
    return (first @ second.mT).cpu()


def sample_rows(layer: Layer) -> list[Rows]:
    """The rows of a weight that are read: a few next to each other in several places; all rows of a small weight."""
    rows, columns = layer.weight.matrix_shape
    length = max(1, -(-_VALUES // (columns * _PLACES)))
    if length * _PLACES >= rows:
        return [Rows(0, rows)]
    starts = [(2 * index + 1) * rows // (2 * _PLACES) - length // 2 for index in range(_PLACES)]
    return [Rows(start, start + length) for start in starts]


def _count_values(layer: Layer) -> int:
    return sum(rows.length for rows in sample_rows(layer)) * layer.weight.matrix_shape[1]
