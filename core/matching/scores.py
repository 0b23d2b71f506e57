"""How alike all source layers and all target layers of one shape are: one product of unit vectors."""

# threadpoolctl has no types.
# pyright: reportMissingTypeStubs=false

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..layers import Base, Layer
from ..linalg import NUMERICAL_RANK, frobenius, leading_svd

Measure = Literal["weight_cosine", "subspace"]
CALLED: Mapping[Measure, str] = {"weight_cosine": "weight cosine", "subspace": "similarity above chance"}

# Rows and columns of a weight that are looked at, at most. A million entries tell a cosine to 0.001, and seventy layers
# of SDXL take 280 MB.
_SIDE = 1024


def unit_vector(matrix: Tensor, measure: Measure) -> Tensor | None:
    """What of a weight (m, n) is compared, as a vector of length 1; None for a weight that shows nothing (zeros,
    or one number everywhere).

    weight_cosine: the weight itself, less its row and column means, which unrelated networks share.
    subspace: the projector P (d, d) on the leading half of the short side's singular directions, less its mean part
    c I, c = k/d. The product of two such vectors is (Phi - c) / (1 - c), similarity above chance (docs/method.md,
    section 2).
    """
    sampled = spread(matrix, _SIDE)
    part = _centred(sampled) if measure == "weight_cosine" else _centred_projector(sampled)
    norm = frobenius(part)
    return part.flatten() / norm if norm > NUMERICAL_RANK * frobenius(sampled) else None


def spread(matrix: Tensor, side: int) -> Tensor:
    """At most `side` rows and columns of a matrix, evenly spaced."""
    rows, columns = (-(-length // side) for length in matrix.shape)
    return matrix[::rows, ::columns]


def _centred(matrix: Tensor) -> Tensor:
    """Less its row and column means; a side of one or two has no mean to speak of."""
    for axis, length in enumerate(matrix.shape):
        if length > 2:
            matrix = matrix - matrix.mean(axis, keepdim=True)
    return matrix


def _centred_projector(matrix: Tensor) -> Tensor:
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    with threadpool_limits(1, user_api="blas"):  # more threads wait by spinning: 14 s in place of 2 on a busy machine
        basis = leading_svd(wide, -(-wide.shape[0] // 2)).left
    chance = basis.shape[1] / basis.shape[0]
    projector = basis @ basis.mT
    return projector - chance * torch.eye(len(projector)).to(projector)


def all_pairs(
    source: tuple[Base, Sequence[Layer]],
    target: tuple[Base, Sequence[Layer]],
    measure: Measure,
    *,
    device: torch.device,
    read: Callable[[Layer], None],
) -> Tensor:
    """Scores (sources, targets) in [-1, 1] on the CPU, NaN where a weight shows nothing; about 0 for unrelated layers.

    Memory: one unit vector (4 MB at most) for each source layer; the targets pass one by one. `read` is told of each.
    """

    def vector(base: Base, layer: Layer) -> Tensor | None:
        read(layer)
        return unit_vector(base.read(layer).to(device), measure)

    vectors = [vector(source[0], layer) for layer in source[1]]
    known = [place for place, one in enumerate(vectors) if one is not None]
    stacked = torch.stack([one for one in vectors if one is not None]) if known else None  # (known, entries)
    table = torch.full((len(vectors), len(target[1])), torch.nan)
    for place, layer in enumerate(target[1]):
        column = vector(target[0], layer)
        if stacked is not None and column is not None:
            table[known, place] = (stacked @ column).cpu()
    return table


def free_numbers(layer: Layer, measure: Measure) -> float:
    """How many independent numbers a score rests on: the entries of the weight, or half those of the projector."""
    short, long = sorted(min(length, _SIDE) for length in layer.weight.matrix_shape)
    return short * long if measure == "weight_cosine" else short * (short - 1) / 2
