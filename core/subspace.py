"""The leading singular subspaces of a layer's weight, and the rule that says how many directions lead."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .eigensolvers import Eigensolver, by_rule
from .errors import InvalidSetting, ShapeMismatch
from .linalg import CLEAR_GAP, boundary_error, complete_bases, frobenius, leading_svd


@dataclass(frozen=True)
class RankRule:
    """How many singular directions make the subspace (docs/method.md, section 1).

    fixed: that many (LoRA-X uses 320) | fraction: that share of min(m, n) | energy: the least k whose squared singular
    values reach that share of their sum.
    """

    kind: Literal["fixed", "fraction", "energy"]
    amount: float

    def __post_init__(self) -> None:
        limit = math.inf if self.kind == "fixed" else 1.0
        if not 0 < self.amount <= limit:
            raise InvalidSetting(f"Rank rule {self.kind}: expected a number in (0, {limit}], found {self.amount}.")

    def most(self, shape: tuple[int, int]) -> int:
        """How many directions of a weight of this shape (m, n) must be known to apply the rule; at least 1."""
        if self.kind == "energy":
            return min(shape)
        wanted = int(self.amount) if self.kind == "fixed" else math.ceil(self.amount * min(shape))
        return max(1, min(wanted, *shape))

    def rank(self, decomposition: "Decomposition") -> int:
        """k for a weight, between 0 (a weight of zeros) and all of its directions."""
        known = len(decomposition.singular_values)
        if self.kind != "energy":
            return min(self.most(decomposition.shape), known)
        energy = decomposition.singular_values.double().square().cumsum(0)
        return min(int((energy < self.amount * energy[-1:]).sum()) + 1, known)


@dataclass(frozen=True)
class Subspace:
    """P = left left^T and Q = right right^T of the k leading singular directions of one weight.

    left (m, k) and right (n, k) are orthonormal; energy is the share of ||W||^2 that the k directions hold.
    """

    left: Tensor
    right: Tensor
    energy: float

    def __post_init__(self) -> None:
        if self.left.shape[1] != self.right.shape[1]:
            raise ShapeMismatch(
                f"A subspace needs as many left as right directions, found {tuple(self.left.shape)} and "
                f"{tuple(self.right.shape)}."
            )

    @property
    def rank(self) -> int:
        return self.left.shape[1]


@dataclass(frozen=True)
class Decomposition:
    """The leading singular triplets of a weight (m, n), to be cut at any rank that they serve.

    left (m, q), singular_values (q) descending, right (n, q); energy: ||W||^2. complete: nothing with weight is left
    out. precise: computed in float64, so that every cut is as exact as the last one.
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
        """Whether a cut at this rank is exact: where float32 made it, the gap there must be clear too."""
        known = len(self.singular_values)
        if rank >= known:
            return rank == known or self.complete
        return self.precise or boundary_error(self.singular_values.square(), rank) <= CLEAR_GAP

    def limited(self, rank: int) -> "Decomposition":
        """The leading `rank` triplets alone."""
        if rank >= len(self.singular_values):
            return self
        parts = self.left[:, :rank], self.singular_values[:rank], self.right[:, :rank]
        return Decomposition(*parts, self.energy, False, self.precise)

    def to(self, device: torch.device) -> "Decomposition":
        parts = self.left.to(device), self.singular_values.to(device), self.right.to(device)
        return Decomposition(*parts, self.energy, self.complete, self.precise)

    def cut(self, rank: int) -> Subspace:
        share = float(self.singular_values[:rank].double().square().sum()) / self.energy if self.energy > 0 else 0.0
        # In one layout, whatever it was cut from: a product's last bits depend on it.
        return Subspace(self.left[:, :rank].contiguous(), self.right[:, :rank].contiguous(), min(1.0, share))


def decompose(weight: Tensor, count: int, eigenpairs: Eigensolver = by_rule) -> Decomposition:
    """The `count` leading singular triplets of a weight (m, n), or fewer where its numerical rank is smaller."""
    found = leading_svd(weight, count, eigenpairs)
    known = len(found.singular_values)
    complete = known < count or known == min(weight.shape)
    return Decomposition(*found[:3], frobenius(weight) ** 2, complete, found.precise)


def leading(weight: Tensor, rank: int, eigenpairs: Eigensolver = by_rule) -> Decomposition:
    """The `rank` leading directions of a weight (m, n). Where these are all that a weight of full rank has, no
    eigensolver is needed: they come in no order then, with equal values, so that they serve no smaller cut."""
    whole = complete_bases(weight) if rank >= min(weight.shape) else None
    if whole is None:
        return decompose(weight, rank, eigenpairs)
    count = min(weight.shape)
    return Decomposition(whole[0], weight.new_ones(count), whole[1], float(count), complete=True, precise=False)


def subspaces(source_weight: Tensor, target_weight: Tensor, rule: RankRule) -> tuple[Subspace, Subspace]:
    """The leading subspaces of two weights, each cut by the rule, then both at the larger k so that they compare.

    A weight whose numerical rank is smaller than that k keeps all it has.
    """
    shape = source_weight.shape[0], source_weight.shape[1]
    found = decompose if rule.kind == "energy" else leading
    source, target = (found(weight, rule.most(shape)) for weight in (source_weight, target_weight))
    rank = max(rule.rank(source), rule.rank(target))
    return source.cut(rank), target.cut(rank)
