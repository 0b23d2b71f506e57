"""The leading singular subspaces of a layer's weight, and the rule that says how many directions lead."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .eigensolvers import Eigensolver, by_rule
from .errors import InvalidSetting, ShapeMismatch
from .linalg import CLEAR_GAP, boundary_error, complete_bases, frobenius, leading_svd


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


def subspaces(source_weight: Tensor, target_weight: Tensor, rule: RankRule) -> tuple[Subspace, Subspace]:
    """The leading subspaces of two weights, each cut by the rule, then both at the larger k so that they compare.

    A weight whose numerical rank is smaller than that k keeps all it has.
    """
    weights = source_weight, target_weight
    if (whole := whole_subspaces(weights, rule)) is not None:
        return whole
    source, target = (decompose(one, rule.most((one.shape[0], one.shape[1]))) for one in weights)
    return cut_alike(source, target, rule)


def whole_subspaces(weights: tuple[Tensor, Tensor], rule: RankRule) -> tuple[Subspace, Subspace] | None:
    """Two subspaces that hold all that their weights do, without an eigensolver; None where the rule cuts something
    away, has to see the spectrum, or a weight is not of full rank."""
    if not takes_all(rule, weights[0].shape):
        return None
    bases = [complete_bases(weight) for weight in weights]
    source, target = (None if one is None else Subspace(*one, 1.0) for one in bases)
    return None if source is None or target is None else (source, target)


def takes_all(rule: RankRule, shape: Sequence[int]) -> bool:
    """Whether a rule leaves every direction of a weight of this shape (m, n) in its subspace, seen from the shape."""
    return rule.kind != "energy" and rule.most((shape[0], shape[1])) == min(shape[0], shape[1])


def cut_alike(source: Decomposition, target: Decomposition, rule: RankRule) -> tuple[Subspace, Subspace]:
    """Both at the larger of the two ranks that the rule gives them."""
    rank = max(rule.rank(source), rule.rank(target))
    return source.cut(rank), target.cut(rank)
