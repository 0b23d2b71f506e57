"""The adapter kinds whose delta has an exact factored form, as functions of their tensors (data/formats.md 4.2).

Names as in the files: a module's delta is scale times what these give, scale = alpha / rank. The other kinds (DoRA,
GLoRA, OFT, BOFT, full differences) depend on the source's weight or are of full rank: the host forms theirs densely.
"""

import torch
from torch import Tensor

from .delta import LowRankDelta


def lora(up: Tensor, down: Tensor, mid: Tensor | None = None) -> LowRankDelta:
    """LoRA and LoCon: up (m, r[, 1, 1]), down (r, in[, kh, kw]); with a Tucker core mid (r, r, kh, kw), down is
    (r, in, 1, 1) and the delta sum_ij up[o,i] mid[i,j,:,:] down[j,c]."""
    if mid is not None:
        down = torch.einsum("ij...,jc->ic...", mid, down.flatten(1))
    return LowRankDelta(up.flatten(1), down.flatten(1))


def loha(
    w1_a: Tensor, w1_b: Tensor, w2_a: Tensor, w2_b: Tensor, t1: Tensor | None = None, t2: Tensor | None = None
) -> LowRankDelta:
    """LoHa: (w1_a w1_b) * (w2_a w2_b) elementwise, w_a (m, r), w_b (r, n): exact at rank r1 r2, for a product of two
    low-rank matrices is the row-wise Kronecker product of their ups times the column-wise one of their downs.

    With Tucker cores t (r, r, kh, kw) each factor is einsum("ijkl,jr,ip->prkl", t, w_b, w_a).
    """
    first, second = _hadamard_factor(w1_a, w1_b, t1), _hadamard_factor(w2_a, w2_b, t2)
    up = torch.einsum("ma,mb->mab", first.up, second.up).flatten(1)
    down = torch.einsum("an,bn->abn", first.down, second.down).flatten(0, 1)
    return LowRankDelta(up, down)


def lokr(w1: LowRankDelta, w2: LowRankDelta) -> LowRankDelta:
    """LoKr: kron(w1, w2), exact at the product of the ranks. A convolution's w2 is (c, d kh kw), kernel innermost,
    so the Kronecker product of the flattened factors is the flattened product."""
    up, down = ((one.contiguous(), two.contiguous()) for one, two in ((w1.up, w2.up), (w1.down, w2.down)))
    return LowRankDelta(torch.kron(*up), torch.kron(*down))


def kronecker_factor(
    whole: Tensor | None, a: Tensor | None, b: Tensor | None, t2: Tensor | None = None
) -> LowRankDelta:
    """One factor of LoKr: a full matrix `whole`, or a b, or with a Tucker core einsum("ijkl,jr,ip->prkl", t2, b, a)."""
    if whole is not None:
        return full(whole.flatten(1))
    if a is None or b is None:
        raise KeyError("lokr_w1 or lokr_w1_a and lokr_w1_b")
    return lora(a, b) if t2 is None else _hadamard_factor(a, b, t2)


def full(matrix: Tensor) -> LowRankDelta:
    """A matrix (m, n) as a delta of rank min(m, n), exactly: the identity is its other factor."""
    rows, columns = matrix.shape
    if rows <= columns:
        return LowRankDelta(torch.eye(rows, dtype=matrix.dtype, device=matrix.device), matrix)
    return LowRankDelta(matrix, torch.eye(columns, dtype=matrix.dtype, device=matrix.device))


def _hadamard_factor(a: Tensor, b: Tensor, t: Tensor | None) -> LowRankDelta:
    if t is None:
        return LowRankDelta(a, b)
    return LowRankDelta(a.mT, torch.einsum("ijkl,jr->irkl", t, b).flatten(1))
