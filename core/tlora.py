"""T-LoRA (arXiv 2507.05964) as LyCORIS 4.1 trains it: its factors start as singular directions of the base's weight,
and the part of the weight that they start as is subtracted. A file holds only the trained factors."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .delta import LowRankDelta
from .linalg import thin_svd
from .subspace import decompose_leading

# The least cosine of the trained product and its start. Training moves the product by a few percent; directions of an
# unrelated weight, or random ones, have a cosine of about 0.
_LEAST_COSINE = 0.5


def find_start(trained: LowRankDelta, weight: Tensor) -> LowRankDelta | None:
    """The part of a weight (m, n) from which the product P diag(s) Q of a T-LoRA was trained: the sum of r of its
    singular triplets. The change is the product less this part. None if the product is like none of the parts that
    LyCORIS can start from: it was trained on another weight, or from random directions.

    The sum does not depend on the signs of the directions, nor on their order within equal singular values.
    """
    trained_norm = trained.norm()
    for part in _possible_starts(weight.double(), trained.rank):
        start = part.to(dtype=torch.float32)
        start_norm = start.norm()
        if start_norm == 0 or trained.inner(start) >= _LEAST_COSINE * trained_norm * start_norm > 0:
            return start
    return None


def _possible_starts(weight: Tensor, rank: int) -> Iterator[LowRankDelta]:
    """The parts of the leading (LyCORIS's default), the middle and the last `rank` triplets. A larger rank than the
    weight has is filled up with zeros there, so that the first part is the whole weight. In float64, because the change
    is a small difference: in float32 it was wrong by 1e-3."""
    left = decompose_leading(weight, min(rank, *weight.shape)).left
    yield LowRankDelta(left, left.mT @ weight)
    count = min(weight.shape)
    if rank < count:
        left, values, right = thin_svd(weight)
        for first in ((count - rank) // 2, count - rank):
            triplets = slice(first, first + rank)
            yield LowRankDelta(left[:, triplets] * values[triplets], right[triplets])
