"""Two weights beside each other: how alike they are, and what their difference does to the inputs that a LoRA reads."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .delta import LowRankDelta
from .errors import ShapeMismatch

# Values of a weight worked on at once: a few of these stay in a core's cache from one product to the next.
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
    the inputs that it reads: what the base's drift took from them. One pass over the weights, in blocks of rows."""
    if source.shape != target.shape:
        raise ShapeMismatch(f"Weights of shapes {tuple(source.shape)} and {tuple(target.shape)} cannot be compared.")
    reading = None if delta is None else delta.row_basis()  # (n, q)
    rows = max(1, _BLOCK // source.shape[1]) if source.device.type == "cpu" else len(source)
    products = source.new_zeros(4)
    drifts: list[Tensor] = []
    for first in range(0, len(source), rows):
        one, other = source[first : first + rows], target[first : first + rows]
        difference = one - other
        products += torch.stack(
            [_inner(one, one), _inner(other, other), _inner(one, other), _inner(difference, difference)]
        )
        if reading is not None:
            drifts.append(difference @ reading)
    squared_source, squared_target, inner, squared_difference = (float(product) for product in products.cpu())
    norms = squared_source**0.5, squared_target**0.5
    known = norms[0] > 0 and norms[1] > 0
    cosine = inner / (norms[0] * norms[1]) if known else None
    figures = WeightFigures(cosine, squared_difference**0.5 / norms[0] if known else None, norms)
    return figures, None if reading is None else LowRankDelta(torch.cat(drifts), reading.mT.contiguous())


def _inner(one: Tensor, other: Tensor) -> Tensor:
    return torch.dot(one.reshape(-1), other.reshape(-1))
