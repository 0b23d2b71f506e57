"""The papers' procedure, written plainly, and three ways to call the decomposition that it rests on."""

from collections.abc import Callable

import torch
from torch import Tensor

from .ours import K


def thin(weight: Tensor) -> None:
    """The thin SVD of a weight as it lies."""
    torch.linalg.svd(weight, full_matrices=False)


def default(weight: Tensor) -> None:
    """(b) torch.linalg.svd as it is called without a second thought: the bases of the null spaces too."""
    torch.linalg.svd(weight)


def tall(weight: Tensor) -> None:
    """(c) the thin SVD of whichever orientation is tall: several times faster in MKL than that of a wide one."""
    torch.linalg.svd(weight if weight.shape[0] >= weight.shape[1] else weight.mT, full_matrices=False)


RIVALS: dict[str, Callable[[Tensor], None]] = {"thin": thin, "default": default, "tall": tall}


def published(source: Tensor, target: Tensor, delta: Tensor) -> Tensor:
    """(a) one layer by the published procedure: the thin SVD of both weights, the similarity of both sides, and
    ProLoRA's Eq. 3 on the delta (m, n) as it stands there, a dense matrix."""
    (u_s, _, vh_s), (u_t, _, vh_t) = (torch.linalg.svd(weight, full_matrices=False) for weight in (source, target))
    u_s, v_s, u_t, v_t = u_s[:, :K], vh_s[:K].mT, u_t[:, :K], vh_t[:K].mT
    similarity = ((u_s.mT @ u_t).square().sum() + (v_s.mT @ v_t).square().sum()) / (2 * K)
    inside = _left(u_t, _right(_left(u_s, _right(delta, v_s)), v_t))
    outside = delta - _right(delta, v_s)
    outside = outside - _left(u_s, outside)
    outside = outside - _left(u_t, outside)
    outside = outside - _right(outside, v_t)
    return (inside + outside) * (similarity >= 0)


def _left(basis: Tensor, x: Tensor) -> Tensor:
    return basis @ (basis.mT @ x)


def _right(x: Tensor, basis: Tensor) -> Tensor:
    return (x @ basis) @ basis.mT


def default_bytes(rows: int, columns: int) -> int:
    """What (b) holds at once: the weight, the two complete bases, and LAPACK's copies."""
    return 4 * (2 * rows * columns + 2 * (rows**2 + columns**2))
