"""An adapter's change of one weight, stored as two factors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import ShapeMismatch
from .linalg import NUMERICAL_RANK, frobenius, qr, thin_svd


@dataclass(frozen=True)
class LowRankDelta:
    """dW = up . down with up (m, r) and down (r, n). The scale alpha/rank of the file is already part of the factors.

    ShapeMismatch if the factors do not fit each other.
    """

    up: Tensor
    down: Tensor

    def __post_init__(self) -> None:
        if self.up.ndim != 2 or self.down.ndim != 2 or self.up.shape[1] != self.down.shape[0]:
            raise ShapeMismatch(
                f"Low-rank delta: expected up (m, r) and down (r, n), found {tuple(self.up.shape)} and "
                f"{tuple(self.down.shape)}."
            )

    @property
    def rank(self) -> int:
        return self.up.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n), the shape of the weight that it changes."""
        return self.up.shape[0], self.down.shape[1]

    def dense(self) -> Tensor:
        """dW as a matrix (m, n); for tests and pictures only."""
        return self.up @ self.down

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "LowRankDelta":
        return LowRankDelta(self.up.to(device=device, dtype=dtype), self.down.to(device=device, dtype=dtype))

    def scaled(self, factor: float) -> "LowRankDelta":
        return LowRankDelta(self.up * factor, self.down)

    def plus(self, delta: "LowRankDelta") -> "LowRankDelta":
        """The exact sum; its rank is the sum of the ranks."""
        if self.shape != delta.shape:
            raise ShapeMismatch(f"Sum of two deltas: expected equal shapes, found {self.shape} and {delta.shape}.")
        return LowRankDelta(torch.cat([self.up, delta.up], 1), torch.cat([self.down, delta.down], 0))

    def minus(self, delta: "LowRankDelta") -> "LowRankDelta":
        return self.plus(delta.scaled(-1.0))

    def inner(self, delta: "LowRankDelta") -> float:
        """Frobenius inner product <dW, dW'>."""
        return float(((self.up.mT @ delta.up) * (self.down @ delta.down.mT)).sum())

    def energy(self) -> float:
        """||dW||^2 from the Gram matrices of the factors: four times cheaper than `norm`, and as accurate unless the
        factors cancel each other."""
        return max(0.0, self.inner(self))

    def norm(self) -> float:
        """Frobenius norm, by QR: Gram matrices lose half the digits of a difference of almost equal deltas."""
        return frobenius(self._core()[1])

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """dW = left (m, q) diag(singular_values) right (n, q)^T with q = min(m, n, r), without forming dW."""
        left, core, right = self._core()
        u, singular_values, vh = thin_svd(core)
        return left @ u, singular_values, right @ vh.mT

    def bases(self) -> tuple[Tensor, Tensor]:
        """Orthonormal bases of the outputs that dW writes (m, q) and of the inputs that it reads (n, q).

        Columns with a singular value of about 0 are zero. A basis of the rows of `down` would be wrong: a new LoRA has
        up = 0, and reads nothing.
        """
        left, singular_values, right = self.svd()
        nonzero = singular_values > NUMERICAL_RANK * singular_values[:1]
        return left * nonzero, right * nonzero

    def truncated(self, rank: int, energy_share: float = 1.0) -> tuple["LowRankDelta", float]:
        """The best approximation of this rank (Eckart-Young) with balanced factors, and the share of ||dW||^2 it loses.

        energy_share: below 1, the rank is reduced to the smallest rank that holds this share of ||dW||^2.
        """
        left, singular_values, right = self.svd()
        energy = singular_values.square()
        total = float(energy.sum())
        if energy_share < 1:
            rank = min(rank, 1 + int((energy.cumsum(0) < energy_share * total).sum()))
        lost = float(energy[rank:].sum()) / total if total > 0 else 0.0
        root = singular_values[:rank].sqrt()
        return LowRankDelta(left[:, :rank] * root, (right[:, :rank] * root).mT.contiguous()), lost

    def _core(self) -> tuple[Tensor, Tensor, Tensor]:
        """left (m, a), core (a, b), right (n, b): dW = left core right^T with orthonormal left and right."""
        left, up_core = qr(self.up)
        right, down_core = qr(self.down.mT)
        return left, up_core @ down_core.mT, right
