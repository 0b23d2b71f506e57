"""How alike two layers are: overlap of their singular subspaces, against the overlap that chance gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from .layers import Base, LayerPair, Skipped
from .linalg import frobenius
from .matching import Matching
from .progress import Progress, silent
from .subspace import RankRule, Subspace, subspaces

AnyBase = TypeVar("AnyBase", bound=Base)


@dataclass(frozen=True)
class SideSimilarity:
    """Phi of one side, in [0, 1], and its chance level; None where a complete or empty basis carries no information."""

    phi: float | None
    chance: float

    @property
    def above_chance(self) -> float | None:
        """(Phi - c) / (1 - c): 0 for unrelated layers, 1 for equal subspaces."""
        return None if self.phi is None else (self.phi - self.chance) / (1 - self.chance)


@dataclass(frozen=True)
class LayerSimilarity:
    """Two layers of one shape, compared. k is the larger of the two subspaces' ranks.

    weight_cosine: <W_s, W_t> / (||W_s|| ||W_t||); drift: ||W_t - W_s|| / ||W_s||. Both None where a weight is zero.
    """

    left: SideSimilarity
    right: SideSimilarity
    rank: int
    source_energy: float
    target_energy: float
    weight_cosine: float | None
    drift: float | None

    @property
    def phi(self) -> float | None:
        """The mean of the sides that carry information; None when neither does."""
        return _mean(self.left.phi, self.right.phi)

    @property
    def above_chance(self) -> float | None:
        return _mean(self.left.above_chance, self.right.above_chance)


def side_similarity(source_basis: Tensor, target_basis: Tensor) -> SideSimilarity:
    """Phi = ||U_s^T U_t||_F^2 / min(k_s, k_t) of two orthonormal bases (m, k) (LoRA-X, arXiv 2501.16559, section 4.1).

    Chance level: max(k_s, k_t) / m, the expected overlap of two random subspaces (method.md section 2).
    """
    dimension, small, large = source_basis.shape[0], *sorted((source_basis.shape[1], target_basis.shape[1]))
    if small == 0 or large == dimension:
        return SideSimilarity(None, large / dimension)
    return SideSimilarity(frobenius(source_basis.mT @ target_basis) ** 2 / small, large / dimension)


def layer_similarity(weights: tuple[Tensor, Tensor], bases: tuple[Subspace, Subspace]) -> LayerSimilarity:
    """Compare two weights (m, n) through their subspaces and directly."""
    source_weight, target_weight = weights
    source, target = bases
    norms = frobenius(source_weight) * frobenius(target_weight)
    cosine = float((source_weight * target_weight).sum()) / norms if norms > 0 else None
    drift = frobenius(target_weight - source_weight) / frobenius(source_weight) if norms > 0 else None
    return LayerSimilarity(
        left=side_similarity(source.left, target.left),
        right=side_similarity(source.right, target.right),
        rank=max(source.rank, target.rank),
        source_energy=source.energy,
        target_energy=target.energy,
        weight_cosine=cosine,
        drift=drift,
    )


@dataclass(frozen=True)
class Comparison(Generic[AnyBase]):
    """Two bases, compared on some layers. Light: no weight is kept, the bases are lazy handles.

    Every layer that was asked for is in `layers` (source layer -> its pair and figures) or in `unpaired` (-> why not).
    """

    source: AnyBase
    target: AnyBase
    layers: Mapping[str, tuple[LayerPair, LayerSimilarity]]
    unpaired: Mapping[str, Skipped]
    rank_rule: RankRule


def compare(
    source: AnyBase,
    target: AnyBase,
    matching: Matching,
    rule: RankRule,
    *,
    device: torch.device,
    progress: Progress = silent,
) -> Comparison[AnyBase]:
    """Compare each pair of a matching; one pair is in memory at a time."""
    pairs = matching.pairs
    layers: dict[str, tuple[LayerPair, LayerSimilarity]] = {}
    for index, pair in enumerate(pairs):
        progress(index, len(pairs), pair.target.name)
        weights = source.read(pair.source).to(device), target.read(pair.target).to(device)
        layers[pair.source.name] = pair, layer_similarity(weights, subspaces(*weights, rule))
    progress(len(pairs), len(pairs), "")
    return Comparison(source, target, layers, {one.layer: one for one in matching.unpaired}, rule)


def _mean(*figures: float | None) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return sum(known) / len(known) if known else None
