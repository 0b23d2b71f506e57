"""Computes the deltas of adapter kinds that have an exact factored form (docs/method.md, section 7).

Parameters have the names of the files. A module's delta is alpha / rank times the result. The other kinds (DoRA, GLoRA,
OFT, BOFT, full differences) depend on the source's weight or have full rank; the host computes their dense deltas.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .delta import LowRankDelta
from .errors import ShapeMismatch


def lora(up: Tensor, down: Tensor, mid: Tensor | None = None) -> LowRankDelta:
    """LoRA and LoCon: up (m, r[, 1, 1]), down (r, in[, kh, kw]); with a Tucker core mid (r, r, kh, kw), down is
    (r, in, 1, 1) and the delta sum_ij up[o,i] mid[i,j,:,:] down[j,c]."""
    if mid is None:
        return _product(up.flatten(1), down.flatten(1))
    return _tucker(up.flatten(1), mid, down.flatten(1))


def loha(
    w1_a: Tensor, w1_b: Tensor, w2_a: Tensor, w2_b: Tensor, t1: Tensor | None = None, t2: Tensor | None = None
) -> LowRankDelta:
    """LoHa: the elementwise product (w1_a w1_b) * (w2_a w2_b) with w_a (m, r), w_b (r, n). Exact, with rank r1 r2: its
    factors are the row-wise Kronecker product of the ups and the column-wise one of the downs.

    If r1 r2 exceeds min(m, n), the matrix is formed instead, because it is smaller: the factors of a file of 4 MB and
    rank 700 would take 2.7 GB. With Tucker cores t (r, r, kh, kw) each factor is
    einsum("ijkl,jr,ip->prkl", t, w_b, w_a). ShapeMismatch if the two factors have different shapes.
    """
    first, second = _hadamard_factor(w1_a, w1_b, t1), _hadamard_factor(w2_a, w2_b, t2)
    if first.shape != second.shape:
        raise ShapeMismatch(f"LoHa: expected two factors of the same shape, found {first.shape} and {second.shape}.")
    if first.rank * second.rank > min(first.shape):
        matrix = first.dense()
        for rows in _parts(first.shape[0], first.shape[1]):
            matrix[rows] *= second.up[rows] @ second.down
        return full(matrix)
    up = torch.einsum("ma,mb->mab", first.up, second.up).flatten(1)
    down = torch.einsum("an,bn->abn", first.down, second.down).flatten(0, 1)
    return LowRankDelta(up, down)


def lokr(w1: LowRankDelta, w2: LowRankDelta) -> LowRankDelta:
    """LoKr: kron(w1, w2), exact, with the product of the ranks. A convolution's w2 is (c, d kh kw) with the kernel
    innermost, so that the Kronecker product of the flattened factors is the flattened product."""
    up = torch.kron(w1.up.contiguous(), w2.up.contiguous())
    return LowRankDelta(up, torch.kron(w1.down.contiguous(), w2.down.contiguous()))


def kronecker_factor(
    whole: Tensor | None, a: Tensor | None, b: Tensor | None, t2: Tensor | None = None
) -> LowRankDelta:
    """One factor of LoKr: a full matrix `whole`, the product a b, or with a Tucker core
    einsum("ijkl,jr,ip->prkl", t2, b, a)."""
    if whole is not None:
        return full(_wide(whole.flatten(1)))
    if a is None or b is None:
        raise KeyError("lokr_w1 or lokr_w1_a and lokr_w1_b")
    return lora(a, b) if t2 is None else _hadamard_factor(a, b, t2)


def full(matrix: Tensor) -> LowRankDelta:
    """A matrix (m, n) as an exact delta of rank min(m, n); the other factor is the identity."""
    rows, columns = matrix.shape
    if rows <= columns:
        return LowRankDelta(torch.eye(rows, dtype=matrix.dtype, device=matrix.device), matrix)
    return LowRankDelta(matrix, torch.eye(columns, dtype=matrix.dtype, device=matrix.device))


def _hadamard_factor(a: Tensor, b: Tensor, t: Tensor | None) -> LowRankDelta:
    return _product(a, b) if t is None else _tucker(a.mT, t, b)


def _product(up: Tensor, down: Tensor) -> LowRankDelta:
    """up (m, r) down (r, n), with rank min(m, n) if r is larger."""
    if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0] or up.shape[1] <= min(len(up), down.shape[1]):
        return LowRankDelta(_wide(up), _wide(down))
    matrix = _wide(up[:, :0]) @ _wide(down[:0])
    for part in _parts(len(down), len(up) + down.shape[1]):
        matrix += _wide(up[:, part]) @ _wide(down[part])
    return full(matrix)


def _tucker(up: Tensor, core: Tensor, down: Tensor) -> LowRankDelta:
    """sum_ij up[o,i] core[i,j,...] down[j,c] with up (m, i) and down (j, c), with rank min(m, n) if i is larger."""

    def inputs(part: slice) -> Tensor:
        return torch.einsum("ij...,jc->ic...", _wide(core[part]), _wide(down)).flatten(1)

    outputs, columns = len(up), down.shape[1] * core.shape[2:].numel()
    if up.shape[1] != len(core) or len(core) <= min(outputs, columns):
        return LowRankDelta(_wide(up), inputs(slice(None)))
    matrix = torch.zeros(outputs, columns, dtype=_wide(up[:0]).dtype, device=up.device)
    for part in _parts(len(core), columns):
        matrix += _wide(up[:, part]) @ inputs(part)
    return full(matrix)


def _parts(count: int, width: int) -> Iterator[slice]:
    """Slices of `count` rows, of about 16 MB each at `width` values a row."""
    step = max(1, (1 << 22) // max(1, width))
    return (slice(first, first + step) for first in range(0, count, step))


def _wide(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is that already."""
    return tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)
