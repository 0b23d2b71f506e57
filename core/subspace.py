"""The leading singular subspaces of a weight, and the rule for how many directions they have."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .eigensolvers import Eigensolver, solve_by_rule
from .errors import InvalidSetting, ShapeMismatch
from .linalg import CLEAR_GAP, boundary_error, complete_bases, frobenius, leading_svd


@dataclass(frozen=True)
class RankRule:
    """How many singular directions a subspace has (docs/method.md, section 1).

    kind and amount: "fixed", a number (LoRA-X uses 320); "fraction", a share of min(m, n); "energy", the smallest k
    whose squared singular values reach this share of their sum. InvalidSetting if the amount is out of range.
    """

    kind: Literal["fixed", "fraction", "energy"]
    amount: float

    def __post_init__(self) -> None:
        limit = math.inf if self.kind == "fixed" else 1.0
        if not 0 < self.amount <= limit:
            raise InvalidSetting(f"Rank rule {self.kind}: expected a number in (0, {limit}], found {self.amount}.")

    def max_rank(self, shape: tuple[int, int]) -> int:
        """How many directions of a weight (m, n) must be computed to apply the rule; at least 1."""
        if self.kind == "energy":
            return min(shape)
        wanted = int(self.amount) if self.kind == "fixed" else math.ceil(self.amount * min(shape))
        return max(1, min(wanted, *shape))

    def rank(self, decomposition: "Decomposition") -> int:
        """k for a weight: from 0 for a weight of zeros to all computed directions."""
        known = len(decomposition.singular_values)
        if self.kind != "energy":
            return min(self.max_rank(decomposition.shape), known)
        energy = decomposition.singular_values.double().square().cumsum(0)
        return min(int((energy < self.amount * energy[-1:]).sum()) + 1, known)


@dataclass(frozen=True)
class Subspace:
    """The k leading singular directions of a weight: orthonormal left (m, k) and right (n, k).

    The projectors are P = left left^T and Q = right right^T. energy: the share of ||W||^2 in the k directions.
    """

    left: Tensor
    right: Tensor
    energy: float

    def __post_init__(self) -> None:
        if self.left.shape[1] != self.right.shape[1]:
            raise ShapeMismatch(
                f"Subspace: expected as many left as right directions, found {tuple(self.left.shape)} and "
                f"{tuple(self.right.shape)}."
            )

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    def to(self, device: torch.device) -> "Subspace":
        return Subspace(self.left.to(device), self.right.to(device), self.energy)


@dataclass(frozen=True)
class Decomposition:
    """The leading singular triplets of a weight (m, n), from which subspaces are cut.

    left (m, q), singular_values (q) descending, right (n, q); energy: ||W||^2. complete: the rest of the weight is
    zero. precise: computed in float64, so that a cut at any rank is as exact as all q directions.
    """

    left: Tensor
    singular_values: Tensor
    right: Tensor
    energy: float
    complete: bool
    precise: bool

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], self.right.shape[0]

    def serves(self, rank: int) -> bool:
        """Whether a cut at this rank is exact. In float32 that takes a clear gap after this rank."""
        known = len(self.singular_values)
        if rank >= known:
            return rank == known or self.complete
        return self.precise or boundary_error(self.singular_values.square(), rank) <= CLEAR_GAP

    def has_order(self) -> bool:
        """Whether the triplets are singular ones. The complete bases of `decompose_leading` are not."""
        return self.precise or not self.complete

    def limited(self, rank: int) -> "Decomposition":
        """Only the leading `rank` triplets."""
        if rank >= len(self.singular_values):
            return self
        parts = self.left[:, :rank], self.singular_values[:rank], self.right[:, :rank]
        return Decomposition(*parts, self.energy, False, self.precise)

    def to(self, device: torch.device) -> "Decomposition":
        parts = self.left.to(device), self.singular_values.to(device), self.right.to(device)
        return Decomposition(*parts, self.energy, self.complete, self.precise)

    def cut(self, rank: int) -> Subspace:
        """The subspace of the leading `rank` directions."""
        share = float(self.singular_values[:rank].double().square().sum()) / self.energy if self.energy > 0 else 0.0
        # Always contiguous: the last bits of a product depend on the memory layout.
        return Subspace(self.left[:, :rank].contiguous(), self.right[:, :rank].contiguous(), min(1.0, share))


def decompose(weight: Tensor, count: int, eigenpairs: Eigensolver = solve_by_rule) -> Decomposition:
    """The `count` leading singular triplets of a weight (m, n); fewer if its numerical rank is smaller."""
    svd = leading_svd(weight, count, eigenpairs)
    known = len(svd.singular_values)
    complete = known < count or known == min(weight.shape)
    return Decomposition(*svd[:3], frobenius(weight) ** 2, complete, svd.precise)


def decompose_leading(weight: Tensor, rank: int, eigenpairs: Eigensolver = solve_by_rule) -> Decomposition:
    """The `rank` leading directions of a weight (m, n).

    If these are all directions of a weight of full rank, no eigensolver runs. The directions then have no order and
    equal singular values, so that no smaller rank can be cut from them.
    """
    bases = complete_bases(weight) if rank >= min(weight.shape) else None
    if bases is None:
        return decompose(weight, rank, eigenpairs)
    count = min(weight.shape)
    return Decomposition(bases[0], weight.new_ones(count), bases[1], float(count), complete=True, precise=False)


def subspaces(source_weight: Tensor, target_weight: Tensor, rule: RankRule) -> tuple[Subspace, Subspace]:
    """The leading subspaces of two weights (m, n), both with the larger of the two ranks that the rule gives.

    A weight with a smaller numerical rank keeps all of its directions.
    """
    shape = source_weight.shape[0], source_weight.shape[1]
    solve = decompose if rule.kind == "energy" else decompose_leading
    source, target = (solve(weight, rule.max_rank(shape)) for weight in (source_weight, target_weight))
    rank = max(rule.rank(source), rule.rank(target))
    return source.cut(rank), target.cut(rank)
