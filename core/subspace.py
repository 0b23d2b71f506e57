"""The leading singular subspaces of a layer's weight, and the rule that says how many directions lead."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .errors import InvalidSetting, ShapeMismatch
from .linalg import gram_svd


@dataclass(frozen=True)
class RankRule:
    """How many singular directions make the subspace (method.md section 1).

    fixed: that many (LoRA-X uses 320) | fraction: that share of min(m, n) | energy: the least k whose squared singular
    values reach that share of their sum.
    """

    kind: Literal["fixed", "fraction", "energy"]
    amount: float

    def __post_init__(self) -> None:
        limit = math.inf if self.kind == "fixed" else 1.0
        if not 0 < self.amount <= limit:
            raise InvalidSetting(f"Rank rule {self.kind}: expected a number in (0, {limit}], found {self.amount}.")

    def rank(self, singular_values: Tensor, shape: tuple[int, int]) -> int:
        """k for a weight of this shape (m, n) with these singular values (q), between 0 (a weight of zeros) and q."""
        if self.kind == "fixed":
            wanted = int(self.amount)
        elif self.kind == "fraction":
            wanted = math.ceil(self.amount * min(shape))
        else:
            energy = singular_values.double().square().cumsum(0)
            wanted = int((energy < self.amount * energy[-1:]).sum()) + 1
        return min(wanted, len(singular_values))


@dataclass(frozen=True)
class Subspace:
    """P = left left^T and Q = right right^T of the k leading singular directions of one weight.

    left (m, k) and right (n, k) are orthonormal, singular_values (k) descending; energy is their share of ||W||^2.
    """

    left: Tensor
    singular_values: Tensor
    right: Tensor
    energy: float

    def __post_init__(self) -> None:
        if not self.left.shape[1] == self.right.shape[1] == len(self.singular_values):
            raise ShapeMismatch(
                f"A subspace needs as many left as right directions, found {tuple(self.left.shape)} and "
                f"{tuple(self.right.shape)}."
            )

    @property
    def rank(self) -> int:
        return len(self.singular_values)


def subspaces(source_weight: Tensor, target_weight: Tensor, rule: RankRule) -> tuple[Subspace, Subspace]:
    """The leading subspaces of two weights, each cut by the rule, then both at the larger k so that they compare.

    A weight whose numerical rank is smaller than that k keeps all it has.
    """
    source, target = gram_svd(source_weight), gram_svd(target_weight)
    rank = max(
        rule.rank(source[1], (source_weight.shape[0], source_weight.shape[1])),
        rule.rank(target[1], (target_weight.shape[0], target_weight.shape[1])),
    )
    return _cut(source, rank), _cut(target, rank)


def _cut(decomposition: tuple[Tensor, Tensor, Tensor], rank: int) -> Subspace:
    left, singular_values, right = decomposition
    energy = singular_values.double().square()
    share = float(energy[:rank].sum() / energy.sum()) if len(energy) else 0.0
    return Subspace(left[:, :rank], singular_values[:rank], right[:, :rank], share)
