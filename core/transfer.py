"""Carry an adapter's deltas from the source base to the target base, one layer at a time."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .delta import LowRankDelta
from .layers import Base
from .linalg import SAME_DELTA, frobenius, project, reject
from .methods import LayerPairBases
from .plan import PlannedPair, TransferPlan, TransferSettings
from .progress import Progress, silent
from .report import LayerReport
from .subspace import Subspace, subspaces


@dataclass(frozen=True)
class Transferred:
    """The target's deltas by layer name, float32 on the CPU, and what happened to each."""

    deltas: Mapping[str, LowRankDelta]
    layers: tuple[LayerReport, ...]


def transfer(
    plan: TransferPlan,
    deltas: Mapping[str, LowRankDelta],
    source: Base,
    target: Base,
    *,
    device: torch.device,
    progress: Progress = silent,
) -> Transferred:
    """Carry out the plan. `deltas` is keyed by source layer; compute is float32 on `device`.

    Memory: one layer's weights of both bases, and the adapter.
    """
    moved: dict[str, LowRankDelta] = {}
    reports: list[LayerReport] = []
    for index, planned in enumerate(plan.pairs):
        progress(index, len(plan.pairs), planned.pair.target.name)
        delta = deltas[planned.pair.source.name].to(device, torch.float32)
        result, report = transfer_layer(plan, planned, delta, source, target)
        moved[planned.pair.target.name] = result.to("cpu")
        reports.append(report)
    progress(len(plan.pairs), len(plan.pairs), "")
    return Transferred(moved, tuple(reports))


def transfer_layer(
    plan: TransferPlan, planned: PlannedPair, delta: LowRankDelta, source: Base, target: Base
) -> tuple[LowRankDelta, LayerReport]:
    """One layer by the plan's method; a planned copy stays a copy whatever the method is."""
    if planned.action == "copy":
        result, lost = _cut(delta, delta, planned, plan.settings)
        return result, describe_layer(planned, delta, result, energy_lost=lost)
    bases = _read_bases(plan, planned, source, target, delta.up.device)
    projected = plan.method.function(delta, bases)
    whole = _rescaled(projected.delta, delta, bases.weights, plan.settings)
    result, lost = _cut(whole, delta, planned, plan.settings)
    report = describe_layer(
        planned,
        delta,
        result,
        energy_lost=lost,
        undefined_directions=projected.undefined_directions,
        block_energies=None if bases.subspaces is None else block_energies(delta, bases.subspaces[0]),
    )
    return result, report


def block_energies(delta: LowRankDelta, source: Subspace) -> tuple[float, float, float, float]:
    """Shares of ||dW||^2 in P dW Q, P dW Q', P' dW Q and P' dW Q' of the source's subspaces; zeros for a zero delta."""
    total = delta.norm() ** 2
    reading = delta.down.mT
    ups = project(source.left, delta.up), reject(source.left, delta.up)
    downs = project(source.right, reading).mT, reject(source.right, reading).mT
    shares = [LowRankDelta(up, down).norm() ** 2 / total if total > 0 else 0.0 for up in ups for down in downs]
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
    """The figures of one transferred layer, measured on the factors."""
    source_norm, norm = delta.norm(), result.norm()
    nonzero = source_norm > 0 and norm > 0
    return LayerReport(
        pair=planned.pair,
        similarity=planned.similarity,
        decision="copied" if planned.action == "copy" else "transferred",
        reason=planned.reason,
        keys=planned.module.keys,
        rank_in=delta.rank,
        rank_out=result.rank,
        norm_ratio=norm / source_norm if source_norm > 0 else None,
        cosine_to_copy=result.inner(delta) / (norm * source_norm) if nonzero else None,
        equals_copy=result.minus(delta).norm() <= SAME_DELTA * source_norm,
        energy_lost=energy_lost,
        undefined_directions=undefined_directions,
        block_energies=block_energies,
    )


def _read_bases(
    plan: TransferPlan, planned: PlannedPair, source: Base, target: Base, device: torch.device
) -> LayerPairBases:
    """Read and decompose no more than the method and the settings ask for."""
    method, settings = plan.method, plan.settings
    if not (method.needs_weights or method.needs_subspaces or settings.rescale != "off"):
        return LayerPairBases()
    weights = source.read(planned.pair.source).to(device), target.read(planned.pair.target).to(device)
    return LayerPairBases(weights, subspaces(*weights, plan.rank_rule) if method.needs_subspaces else None)


def _cut(
    result: LowRankDelta, delta: LowRankDelta, planned: PlannedPair, settings: TransferSettings
) -> tuple[LowRankDelta, float]:
    """The result at the rank that it is stored with, and the share of its energy that this loses.

    More factors than the smaller side of the weight are never needed: that cut loses nothing.
    """
    limit = min(result.shape)
    if not planned.module.exact:
        limit = min(limit, settings.dense_rank)
    elif settings.out_rank == "keep":
        limit = min(limit, delta.rank)
    return result.truncated(limit) if result.rank > limit else (result, 0.0)


def _rescaled(
    result: LowRankDelta, delta: LowRankDelta, weights: tuple[Tensor, Tensor] | None, settings: TransferSettings
) -> LowRankDelta:
    """||dW_t|| / ||W_t|| = ||dW_s|| / ||W_s|| where the settings ask for it and the figures allow it."""
    if settings.rescale == "off" or weights is None:
        return result
    source_norm, target_norm, norm = frobenius(weights[0]), frobenius(weights[1]), result.norm()
    if source_norm == 0 or norm == 0:
        return result
    return result.scaled(delta.norm() * target_norm / (source_norm * norm))
