"""Compares layers: the overlap of their singular subspaces, next to the overlap that chance gives."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

from .delta import LowRankDelta
from .drift import Drift, WeightFigures, compare_blocks, compare_weights
from .layers import Base, LayerPair, Skipped
from .linalg import frobenius
from .matching import BlockMap, Matching
from .matching.channels import Channels
from .reader import LayerReader, pair_subspaces, weight_blocks
from .resources import Resources
from .subspace import RankRule, Subspace
from .survey import Survey
from .verdict import RELATED, Verdict

AnyBase = TypeVar("AnyBase", bound=Base)

# A comparison keeps a drift if its factors are smaller than this share of the weight: LoRAs up to rank 160 at
# 1280 x 1280, a few hundred megabytes for all of SDXL.
_DRIFT_SHARE = 0.5

# subspace: Phi of the leading singular directions. weight_cosine: the cosine of the weights, without any decomposition.
Measure = Literal["weight_cosine", "subspace"]

# The similarity from which a layer is transferred if the user sets no threshold. subspace: ProLoRA's 0.8; 0.7 gave the
# same, 0.9 lost layers of relatives (benchmarks/quality/RESULTS.md). weight_cosine: the floor of related weights; a
# layer whose Phi reaches 0.8 has 0.7 or more.
THRESHOLDS: Mapping[Measure, float] = {"weight_cosine": RELATED, "subspace": 0.8}


@dataclass(frozen=True)
class SideSimilarity:
    """Phi of one side, in [0, 1], and its chance level.

    phi is None if a basis is complete or empty, which shows nothing. Both are None if subspaces were not measured.
    """

    phi: float | None = None
    chance: float | None = None

    @property
    def above_chance(self) -> float | None:
        """(Phi - c) / (1 - c): 0 for unrelated layers, 1 for equal subspaces."""
        return None if self.phi is None or self.chance is None else (self.phi - self.chance) / (1 - self.chance)


@dataclass(frozen=True)
class LayerSimilarity:
    """The similarity of two layers of one shape. The figures of subspaces are None if they were not measured.

    left, right: output and input side. rank: k, the larger of the ranks of the two subspaces. source_energy,
    target_energy: the shares of ||W||^2 that the subspaces hold.
    """

    weights: WeightFigures
    left: SideSimilarity = SideSimilarity()
    right: SideSimilarity = SideSimilarity()
    rank: int | None = None
    source_energy: float | None = None
    target_energy: float | None = None

    @property
    def phi(self) -> float | None:
        """The mean of the two sides, of which an uninformative one is left out; None if both are."""
        return _mean(self.left.phi, self.right.phi)

    @property
    def above_chance(self) -> float | None:
        return _mean(self.left.above_chance, self.right.above_chance)

    @property
    def weight_cosine(self) -> float | None:
        return self.weights.cosine

    @property
    def drift(self) -> float | None:
        return self.weights.drift

    def score(self, measure: Measure) -> float | None:
        """The figure that the threshold applies to."""
        return self.phi if measure == "subspace" else self.weight_cosine


def side_similarity(source_basis: Tensor, target_basis: Tensor) -> SideSimilarity:
    """Phi = ||U_s^T U_t||_F^2 / min(k_s, k_t) of two orthonormal bases (m, k) (LoRA-X, arXiv 2501.16559, section 4.1).

    Chance level: max(k_s, k_t) / m, the expected Phi of two random subspaces (docs/method.md, section 2).
    """
    dimension, small, large = source_basis.shape[0], *sorted((source_basis.shape[1], target_basis.shape[1]))
    if small == 0 or large == dimension:
        return SideSimilarity(None, large / dimension)
    return SideSimilarity(frobenius(source_basis.mT @ target_basis) ** 2 / small, large / dimension)


def layer_similarity(weights: WeightFigures, bases: tuple[Subspace, Subspace]) -> LayerSimilarity:
    """Combine the figures of two weights (m, n) with the similarity of their subspaces."""
    source, target = bases
    return LayerSimilarity(
        weights=weights,
        left=side_similarity(source.left, target.left),
        right=side_similarity(source.right, target.right),
        rank=max(source.rank, target.rank),
        source_energy=source.energy,
        target_energy=target.energy,
    )


@dataclass(frozen=True)
class Comparison(Generic[AnyBase]):
    """The comparison of two bases. It holds no weights.

    layers: by target layer, the pair and its similarity. A requested source layer is there once or several times, or in
    `unpaired`. unpaired: by source layer, with the reason. channels: by target layer, the channels that a narrower
    layer kept. drifts: by target layer, the drift where one adapter acts. adapter: the fingerprint of that adapter; the
    drifts are wrong for any other. verdict, block_map: results of the survey.
    """

    source: AnyBase
    target: AnyBase
    layers: Mapping[str, tuple[LayerPair, LayerSimilarity]]
    unpaired: Mapping[str, Skipped]
    rank_rule: RankRule
    measure: Measure
    channels: Mapping[str, Channels] = field(default_factory=dict[str, Channels])
    drifts: Mapping[str, Drift] = field(default_factory=dict[str, Drift])
    adapter: str | None = None
    notes: tuple[str, ...] = ()
    verdict: Verdict | None = None
    block_map: BlockMap | None = None

    def drifts_for(self, adapter: str | None) -> Mapping[str, Drift]:
        """The drifts by target layer if they were measured for the adapter with this fingerprint; else an empty
        mapping."""
        return self.drifts if adapter is not None and adapter == self.adapter else {}


def compare(
    source: AnyBase,
    target: AnyBase,
    paired: Matching | Survey,
    rule: RankRule,
    *,
    measure: Measure = "subspace",
    deltas: Mapping[str, LowRankDelta] | None = None,
    adapter: str | None = None,
    using: Resources | None = None,
) -> Comparison[AnyBase]:
    """Compare each pair of layers of a matching or survey.

    Every weight is read at most once, and not at all if the cache has the figures of its pair. With weight_cosine
    nothing is decomposed. deltas: by source layer, of the adapter with the fingerprint `adapter`; with weight_cosine
    the result keeps their drifts if these are much smaller than the weights. Memory: one pair of layers for each
    worker.
    """
    resources = using or Resources()
    matching = paired.matching if isinstance(paired, Survey) else paired

    def compare_pair(pair: LayerPair) -> tuple[LayerSimilarity, Drift | None]:
        channels = matching.channels.get(pair.target.name)
        readers = LayerReader(source, pair.source, resources, channels), LayerReader(target, pair.target, resources)
        delta = None if deltas is None else _small_delta(deltas.get(pair.source.name), pair, channels)
        return _compare_pair(readers, pair, rule, measure, delta, resources)

    results = resources.over_layers(matching.pairs, compare_pair, _cost, lambda pair: pair.target.name)
    by_target = {pair.target.name: (pair, *result) for pair, result in zip(matching.pairs, results, strict=True)}
    return Comparison(
        source,
        target,
        {name: (pair, similarity) for name, (pair, similarity, _) in by_target.items()},
        {skipped.layer: skipped for skipped in matching.unpaired},
        rule,
        measure,
        matching.channels,
        {name: drift for name, (_, _, drift) in by_target.items() if drift is not None},
        adapter,
        tuple(resources.notes.values()),
        *((paired.verdict, paired.block_map) if isinstance(paired, Survey) else (None, None)),
    )


def _small_delta(delta: LowRankDelta | None, pair: LayerPair, channels: Channels | None) -> LowRankDelta | None:
    """The delta cut to the target's shape, if it fits its layer and its drift is small enough to keep."""
    if delta is None or delta.shape != pair.source.weight.matrix_shape:
        return None
    delta = delta if channels is None else channels.delta(delta)
    return delta if 2 * delta.rank * sum(delta.shape) < _DRIFT_SHARE * math.prod(delta.shape) else None


def _compare_pair(
    readers: tuple[LayerReader, LayerReader],
    pair: LayerPair,
    rule: RankRule,
    measure: Measure,
    delta: LowRankDelta | None,
    using: Resources,
) -> tuple[LayerSimilarity, Drift | None]:
    if measure == "weight_cosine":  # reading dominates: a card would only wait for the weights
        figures, drift = compare_blocks(weight_blocks(*readers), delta)
        return LayerSimilarity(figures), drift
    cache = using.cache
    key = "" if cache is None else f"similarity {readers[0].digest} {readers[1].digest} {rule} {cache.precision}"
    if cache is not None and (known := cache.figures(key)) is not None:
        return _from_json(known), None
    weights = readers[0].weight, readers[1].weight  # read now, while the card works on another layer

    def work(device: torch.device) -> LayerSimilarity:
        figures, _ = compare_weights(weights[0].to(device), weights[1].to(device))
        return layer_similarity(figures, pair_subspaces(*readers, rule, device))

    similarity = using.compute(work, pair.target.name)
    if cache is not None:
        cache.store_figures(key, asdict(similarity))
    return similarity, None


def _cost(pair: LayerPair) -> int:
    """The multiplications of a Gram matrix, which dominate a decomposition."""
    rows, columns = pair.target.weight.matrix_shape
    return rows * columns * min(rows, columns)


def _from_json(figures: dict[str, Any]) -> LayerSimilarity:
    weights = WeightFigures(
        figures["weights"]["cosine"], figures["weights"]["drift"], tuple(figures["weights"]["norms"])
    )
    left, right = SideSimilarity(**figures["left"]), SideSimilarity(**figures["right"])
    return LayerSimilarity(weights, left, right, figures["rank"], figures["source_energy"], figures["target_energy"])


def _mean(*figures: float | None) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return sum(known) / len(known) if known else None
