"""The formulas of the transfer in their simplest form: float64, dense projectors, no code shared with the engine."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

METHOD_NAMES = ("copy", "lora_x", "prolora", "prolora_full", "rotate", "restore", "restore_both")


def rank_of(singular_values: Tensor, shape: torch.Size, kind: str, amount: float) -> int:
    """The rank k of a weight (m, n) by a rank rule: fixed, fraction or energy."""
    if kind == "fixed":
        return min(int(amount), min(shape))
    if kind == "fraction":
        return math.ceil(amount * min(shape))
    total = float(singular_values.square().sum())
    reached = 0.0
    for k, value in enumerate(singular_values.tolist(), 1):
        reached += value**2
        if reached >= amount * total:
            return k
    return min(shape)


@dataclass
class Projectors:
    """Orthonormal bases of the leading subspaces of source and target at the larger of the two ranks, and their dense
    projectors P = U_k U_k^T (m, m) and Q = V_k V_k^T (n, n)."""

    source: tuple[Tensor, Tensor]  # U (m, k), V (n, k)
    target: tuple[Tensor, Tensor]
    k: int

    @staticmethod
    def of(source: Tensor, target: Tensor, kind: str, amount: float) -> "Projectors":
        (u_s, s_s, v_s), (u_t, s_t, v_t) = (_thin_svd(weight.double()) for weight in (source, target))
        k = max(rank_of(values, source.shape, kind, amount) for values in (s_s, s_t))
        return Projectors((u_s[:, :k], v_s[:, :k]), (u_t[:, :k], v_t[:, :k]), k)

    def __post_init__(self) -> None:
        self.p_s, self.q_s = (basis @ basis.mT for basis in self.source)
        self.p_t, self.q_t = (basis @ basis.mT for basis in self.target)

    def similarity(self) -> tuple[float | None, float | None]:
        """Phi on the left and on the right side, None where the basis is complete."""
        left, right = float((self.p_s * self.p_t).sum()) / self.k, float((self.q_s * self.q_t).sum()) / self.k
        return (left if self.k < len(self.p_s) else None), (right if self.k < len(self.q_s) else None)


def transfer(method: str, delta: Tensor, source: Tensor, target: Tensor, projectors: Projectors) -> Tensor:
    """dW_t (m, n) for dW_s = delta (m, n), by docs/method.md, section 3."""
    x, p = delta.double(), projectors
    if method == "copy":
        return x
    if method == "restore":
        reading = torch.linalg.pinv(x, rtol=1e-9) @ x  # the projector on the rows of dW_s
        return x + (source.double() - target.double()) @ reading
    if method == "restore_both":
        drift, rank = source.double() - target.double(), int(torch.linalg.matrix_rank(x, rtol=1e-9))
        inverse = torch.linalg.pinv(x, rtol=1e-9)
        acting = drift - _null(x @ inverse) @ drift @ _null(inverse @ x)
        weight = x.square().sum() / (x.square().sum() + acting.square().sum())
        u, values, v = _thin_svd(x + weight * acting)
        return u[:, :rank] * values[:rank] @ v[:, :rank].mT
    if method == "lora_x":
        return p.p_t @ x @ p.q_t
    if method == "prolora":
        return p.p_t @ (p.p_s @ x @ p.q_s) @ p.q_t + _null(p.p_t) @ (_null(p.p_s) @ x @ _null(p.q_s)) @ _null(p.q_t)
    if method == "prolora_full":
        left = p.p_t @ (p.p_s @ x) + _null(p.p_t) @ (_null(p.p_s) @ x)
        return left @ p.q_s @ p.q_t + left @ _null(p.q_s) @ _null(p.q_t)
    if method == "rotate":
        # K_R = Q_s Q_t + Q'_s Q'_t made orthogonal: on rows, the transpose of what K does to columns.
        turned = _rotated(p.source[1], p.target[1], x.mT).mT
        return _rotated(p.source[0], p.target[0], turned)
    raise KeyError(method)


def _null(projector: Tensor) -> Tensor:
    return torch.eye(len(projector), dtype=projector.dtype) - projector


def _rotated(source: Tensor, target: Tensor, columns: Tensor) -> Tensor:
    """K X, with K the orthogonal polar factor of M = P_t P_s + P'_t P'_s, for bases (m, k) and X (m, c).

    M is the identity outside the span of both subspaces, so the polar factor is taken inside that span.
    """
    span, _ = torch.linalg.qr(torch.cat([source, target], 1))
    p_s, p_t = (inside @ inside.mT for inside in (span.mT @ source, span.mT @ target))
    u, _, vh = torch.linalg.svd(p_t @ p_s + _null(p_t) @ _null(p_s))
    inside = span.mT @ columns
    return columns + span @ (u @ (vh @ inside) - inside)


def _thin_svd(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (m, q), singular values, V (n, q); the tall orientation is several times faster in the library."""
    if weight.shape[0] < weight.shape[1]:
        v, values, u = _thin_svd(weight.mT)
        return u, values, v
    u, values, vh = torch.linalg.svd(weight, full_matrices=False)
    return u, values, vh.mT
