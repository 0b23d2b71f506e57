"""The papers' procedure as published, and three ways to call the decomposition that it needs."""

from collections.abc import Callable

import torch
from torch import Tensor

from .ours import K


def thin(weight: Tensor) -> None:
    """The thin SVD of a weight in its own orientation."""
    torch.linalg.svd(weight, full_matrices=False)


def default(weight: Tensor) -> None:
    """(b) torch.linalg.svd with its default arguments, which also computes the bases of the null spaces."""
    torch.linalg.svd(weight)


def tall(weight: Tensor) -> None:
    """(c) the thin SVD of the tall orientation, which MKL computes several times faster than the wide one."""
    torch.linalg.svd(weight if weight.shape[0] >= weight.shape[1] else weight.mT, full_matrices=False)


RIVALS: dict[str, Callable[[Tensor], None]] = {"thin": thin, "default": default, "tall": tall}


def transfer_as_published(source: Tensor, target: Tensor, delta: Tensor) -> Tensor:
    """(a) the published procedure for a layer: the thin SVD of both weights, the similarity of both sides, and
    ProLoRA's Eq. 3 on the dense delta (m, n)."""
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
    """Bytes that (b) needs at once: the weight, both complete bases, and LAPACK's copies."""
    return 4 * (2 * rows * columns + 2 * (rows**2 + columns**2))
