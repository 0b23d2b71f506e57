"""How the papers' procedure decomposes a weight, written plainly: a full singular value decomposition of each."""

from collections.abc import Callable

import torch
from torch import Tensor


def thin(weight: Tensor) -> None:
    """(a) what the published method says: the thin SVD of the weight as it lies."""
    torch.linalg.svd(weight, full_matrices=False)


def default(weight: Tensor) -> None:
    """(b) torch.linalg.svd as it is called without a second thought: the bases of the null spaces too."""
    torch.linalg.svd(weight)


def tall(weight: Tensor) -> None:
    """(c) the serious baseline: the thin SVD of whichever orientation is tall, several times faster in MKL."""
    torch.linalg.svd(weight if weight.shape[0] >= weight.shape[1] else weight.mT, full_matrices=False)


RIVALS: dict[str, Callable[[Tensor], None]] = {"thin": thin, "default": default, "tall": tall}


def default_bytes(rows: int, columns: int) -> int:
    """What (b) holds at once: the weight, the two complete bases, and LAPACK's copies."""
    return 4 * (2 * rows * columns + 2 * (rows**2 + columns**2))
