"""Scores how alike layers of one shape are: the product of two unit vectors that are made from their weights.

A measure of likeness is one entry of `MEASURES`: everything that matching says and offers derives from it.
"""

# threadpoolctl has no types.
# pyright: reportMissingTypeStubs=false

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..layers import Base, Layer
from ..linalg import NUMERICAL_RANK, frobenius, leading_svd

# The largest number of rows and columns of a weight that are compared. A million entries give a cosine to 0.001, and
# seventy layers of SDXL take 280 MB.
_SIDE = 1024


@dataclass(frozen=True)
class Measure:
    """A measure of likeness between two weights of one shape.

    comparable_part: turns a sampled weight (m, n) into the values that are compared. The product of two such parts,
    scaled to length 1, must be about 0 for unrelated weights and 1 for equal ones.
    count_numbers: how many independent numbers a score rests on, from the short and the long side of the sample.
    floor: blocks with a score below it are no more alike than unrelated weights (benchmarks/matching/RESULTS.md, "The
    floor"). label: its name in reports and pictures. match_by: its name in the node's `match_by` input.
    """

    label: str
    match_by: str
    floor: float
    comparable_part: Callable[[Tensor], Tensor]
    count_numbers: Callable[[int, int], float]


def _subtract_means(matrix: Tensor) -> Tensor:
    """The weight without its row and column means, which unrelated networks share; a side of one or two has no mean
    worth the name."""
    for axis, length in enumerate(matrix.shape):
        if length > 2:
            matrix = matrix - matrix.mean(axis, keepdim=True)
    return matrix


def _centred_projector(matrix: Tensor) -> Tensor:
    """P - c I with P (d, d) the projector on the leading half of the short side's singular directions, c = k/d.

    The product of two such parts at length 1 is (Phi - c) / (1 - c), similarity above chance (docs/method.md,
    section 2).
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    with threadpool_limits(1, user_api="blas"):  # more threads wait by spinning: 14 s instead of 2 on a busy machine
        basis = leading_svd(wide, -(-wide.shape[0] // 2)).left
    chance = basis.shape[1] / basis.shape[0]
    projector = basis @ basis.mT
    return projector - chance * torch.eye(len(projector)).to(projector)


MEASURES: Mapping[str, Measure] = {
    "weight_cosine": Measure(
        label="weight cosine",
        match_by="blocks",
        floor=0.15,
        comparable_part=_subtract_means,
        count_numbers=lambda short, long: short * long,
    ),
    "subspace": Measure(
        label="similarity above chance",
        match_by="blocks by subspaces",
        floor=0.1,
        comparable_part=_centred_projector,
        count_numbers=lambda short, long: short * (short - 1) / 2,
    ),
}


def unit_vector(matrix: Tensor, measure: str, side: int = _SIDE) -> Tensor | None:
    """The comparable part of a weight (m, n) as a vector of length 1; None for a weight that shows nothing (zeros, or
    the same number everywhere). side: the largest number of rows and columns that are compared."""
    sampled = sample_evenly(matrix, side)
    part = MEASURES[measure].comparable_part(sampled)
    norm = frobenius(part)
    return part.flatten() / norm if norm > NUMERICAL_RANK * frobenius(sampled) else None


def sample_evenly(matrix: Tensor, side: int) -> Tensor:
    """At most `side` rows and columns of a matrix, evenly spaced."""
    rows, columns = (-(-length // side) for length in matrix.shape)
    return matrix[::rows, ::columns]


def score_all_pairs(
    source: tuple[Base, Sequence[Layer]],
    target: tuple[Base, Sequence[Layer]],
    measure: str,
    *,
    device: torch.device,
    on_read: Callable[[Layer], None],
) -> Tensor:
    """Scores (sources, targets) in [-1, 1] on the CPU, NaN where a weight shows nothing; about 0 for unrelated layers.

    Memory: one unit vector (4 MB at most) for each source layer; the targets are read one after another. `on_read` is
    called before each layer is read.
    """

    def read_vector(base: Base, layer: Layer) -> Tensor | None:
        on_read(layer)
        return unit_vector(base.read(layer).to(device), measure)

    vectors = [read_vector(source[0], layer) for layer in source[1]]
    known_rows = [row for row, vector in enumerate(vectors) if vector is not None]
    stacked = torch.stack([vector for vector in vectors if vector is not None]) if known_rows else None  # (known, d)
    table = torch.full((len(vectors), len(target[1])), torch.nan)
    for column, layer in enumerate(target[1]):
        vector = read_vector(target[0], layer)
        if stacked is not None and vector is not None:
            table[known_rows, column] = (stacked @ vector).cpu()
    return table


def count_free_numbers(layer: Layer, measure: str) -> float:
    """How many independent numbers a score of this layer rests on."""
    short, long = sorted(min(length, _SIDE) for length in layer.weight.matrix_shape)
    return MEASURES[measure].count_numbers(short, long)
