"""Transfers an adapter's deltas from the source base to the target base, one layer at a time."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .delta import LowRankDelta
from .drift import Drift, compare_weights
from .linalg import SAME_DELTA
from .methods import LayerPairBases, Method
from .plan import PlannedPair, TransferPlan, TransferSettings
from .reader import LayerReader, pair_subspaces
from .reports.layer import LayerReport
from .resources import Resources
from .similarity import Comparison, LayerSimilarity
from .subspace import Subspace


@dataclass(frozen=True)
class Transferred:
    """The target's deltas by layer name, in float32 on the CPU, with a report on each layer."""

    deltas: Mapping[str, LowRankDelta]
    layers: tuple[LayerReport, ...]
    notes: tuple[str, ...] = ()


def transfer(
    comparison: Comparison[Any],
    plan: TransferPlan,
    deltas: Mapping[str, LowRankDelta],
    using: Resources | None = None,
) -> Transferred:
    """Transfer every planned delta.

    deltas: by source layer; the computation is in float32. A weight is read only if the plan's method needs its
    subspaces or its drift. Drifts that the comparison measured are reused if they belong to the plan's adapter.
    Memory: the adapter, and one layer's weights of both bases for each worker.
    """
    resources = using or Resources()
    drifts = comparison.drifts_for(plan.adapter)

    def transfer_pair(planned: PlannedPair) -> tuple[LowRankDelta, LayerReport]:
        pair = planned.pair
        channels = comparison.channels.get(pair.target.name)
        delta = deltas[pair.source.name].to("cpu", torch.float32)
        readers = (
            LayerReader(comparison.source, pair.source, resources, channels),
            LayerReader(comparison.target, pair.target, resources),
        )
        delta = delta if channels is None else channels.delta(delta)
        return _transfer_layer(plan, planned, delta, readers, drifts.get(pair.target.name), resources)

    def cost(planned: PlannedPair) -> int:
        return math.prod(planned.pair.source.weight.shape)

    results = resources.over_layers(plan.pairs, transfer_pair, cost, lambda planned: planned.pair.target.name)
    names = [planned.pair.target.name for planned in plan.pairs]
    transferred = {name: delta for name, (delta, _) in zip(names, results, strict=True)}
    return Transferred(transferred, tuple(report for _, report in results), tuple(resources.notes.values()))


def _transfer_layer(
    plan: TransferPlan,
    planned: PlannedPair,
    delta: LowRankDelta,
    readers: tuple[LayerReader, LayerReader],
    drift: Drift | None,
    using: Resources,
) -> tuple[LowRankDelta, LayerReport]:
    """Transfer one layer by the plan's method, or copy it if the plan says so."""
    if planned.action == "copy":
        result, lost = _cut(_apply_gain(delta, plan.settings), delta, planned, plan.settings)
        return result, describe_layer(planned, delta, result, energy_lost=lost)

    def work(device: torch.device) -> tuple[LowRankDelta, LayerReport]:
        delta_here = delta.to(device)
        bases = _read_bases(plan, readers, delta_here, drift, device)
        projected = plan.method.function(delta_here, bases)
        uncut = _apply_gain(_rescale(projected.delta, delta_here, planned.similarity, plan.settings), plan.settings)
        result, lost = _cut(uncut, delta_here, planned, plan.settings)
        report = describe_layer(
            planned,
            delta_here,
            result,
            energy_lost=lost,
            undefined_directions=projected.undefined_directions,
            block_energies=None if bases.subspaces is None else block_energies(delta_here, bases.subspaces[0]),
        )
        return result.to("cpu"), report

    _read_ahead(plan.method, readers, drift)
    return using.compute(work, planned.pair.target.name)


def _read_ahead(method: Method, readers: tuple[LayerReader, LayerReader], drift: Drift | None) -> None:
    """Read what the method needs now, while the card works on another layer."""
    for reader in readers:
        if method.needs_drift and drift is None:
            reader.read()
        if method.needs_subspaces:
            reader.prepare()


def block_energies(delta: LowRankDelta, source: Subspace) -> tuple[float, float, float, float]:
    """Shares of ||dW||^2 in P dW Q, P dW Q', P' dW Q and P' dW Q' of the source's subspaces; all 0 for a zero delta."""
    total = delta.energy()
    # The part inside a subspace is computed from its coordinates there; the part outside is the rest.
    up_inside, down_inside = source.left.mT @ delta.up, delta.down @ source.right
    ups = [(part := up_inside.mT @ up_inside), delta.up.mT @ delta.up - part]
    downs = [(part := down_inside @ down_inside.mT), delta.down @ delta.down.mT - part]
    energies = [max(0.0, float((up * down).sum())) for up in ups for down in downs]
    shares = [energy / total if total > 0 else 0.0 for energy in energies]
    return shares[0], shares[1], shares[2], shares[3]


def describe_layer(
    planned: PlannedPair,
    delta: LowRankDelta,
    result: LowRankDelta,
    *,
    energy_lost: float = 0.0,
    undefined_directions: int = 0,
    block_energies: tuple[float, float, float, float] | None = None,
) -> LayerReport:
    """The report on one transferred layer. Its figures are computed from the factors of the delta and of the result."""
    source_norm, norm = delta.energy() ** 0.5, result.energy() ** 0.5
    nonzero = source_norm > 0 and norm > 0
    cosine = result.inner(delta) / (norm * source_norm) if nonzero else None
    return LayerReport(
        pair=planned.pair,
        similarity=planned.similarity,
        decision="copied" if planned.action == "copy" else "transferred",
        reason=planned.reason,
        by_threshold=planned.by_threshold,
        keys=planned.module.keys,
        rank_in=delta.rank,
        rank_out=result.rank,
        norm_ratio=norm / source_norm if source_norm > 0 else None,
        cosine_to_copy=cosine,
        equals_copy=_is_copy(result, delta, cosine),
        energy_lost=energy_lost,
        undefined_directions=undefined_directions,
        block_energies=block_energies,
    )


def _is_copy(result: LowRankDelta, delta: LowRankDelta, cosine: float | None) -> bool:
    """Whether a result equals the copy. The difference is only computed if the cosine is close enough to 1."""
    if result is delta or cosine is None:
        return result is delta or result.norm() == delta.norm()
    return cosine > 1 - SAME_DELTA and result.minus(delta).norm() <= SAME_DELTA * delta.norm()


def _read_bases(
    plan: TransferPlan,
    readers: tuple[LayerReader, LayerReader],
    delta: LowRankDelta,
    drift: Drift | None,
    device: torch.device,
) -> LayerPairBases:
    """Read and decompose what the method declares, and nothing else."""
    method, source, target = plan.method, *readers
    if not method.needs_drift:
        drift = None
    elif drift is None:
        _, drift = compare_weights(source.weight.to(device), target.weight.to(device), delta)
    return LayerPairBases(
        pair_subspaces(source, target, plan.rank_rule, device) if method.needs_subspaces else None,
        None if drift is None else drift.to(device),
    )


def _cut(
    result: LowRankDelta, delta: LowRankDelta, planned: PlannedPair, settings: TransferSettings
) -> tuple[LowRankDelta, float]:
    """Cut the result to the rank that the settings allow. Returns it with the share of its energy that is lost.

    The rank is never above the short side of the weight; that cut loses nothing.
    """
    limit, energy_share = min(result.shape), 1.0
    if not planned.module.exact or settings.out_rank == "cut":
        limit, energy_share = min(limit, settings.dense_rank), settings.dense_energy
    elif settings.out_rank == "keep":
        limit = min(limit, delta.rank)
    return result.truncated(limit, energy_share) if result.rank > limit or energy_share < 1 else (result, 0.0)


def _apply_gain(delta: LowRankDelta, settings: TransferSettings) -> LowRankDelta:
    return delta if settings.gain == 1 else delta.scaled(settings.gain)


def _rescale(
    result: LowRankDelta, delta: LowRankDelta, similarity: LayerSimilarity, settings: TransferSettings
) -> LowRankDelta:
    """Scale to ||dW_t|| / ||W_t|| = ||dW_s|| / ||W_s||, if the settings say so and no norm is zero."""
    if settings.rescale == "off":
        return result
    source_norm, target_norm = similarity.weights.norms
    norm = result.norm()
    if source_norm == 0 or target_norm == 0 or norm == 0:
        return result
    return result.scaled(delta.norm() * target_norm / (source_norm * norm))
