"""Transfers one pair of layers, for every adapter that changes it: the weights are read once for all."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .attempt import attempt
from .delta import LowRankDelta
from .drift import Drift, measure_drifts
from .layer_figures import block_energies, describe_layer
from .layers import LayerPair
from .matching.channels import Channels
from .methods import LayerPairBases
from .plan import PlannedPair, TransferPlan, TransferSettings
from .reader import LayerReader, pair_subspaces, weight_blocks
from .reports.layer import LayerReport
from .resources import CPU, Resources
from .similarity import Comparison, LayerSimilarity
from .subspace import RankRule, Subspace


@dataclass(frozen=True)
class TransferTask:
    """An adapter that is to be transferred: its plan, its deltas by source layer, and known drifts by target layer."""

    plan: TransferPlan
    deltas: Mapping[str, LowRankDelta]
    drifts: Mapping[str, Drift] = field(default_factory=dict[str, Drift])


@dataclass(frozen=True)
class LayerJob:
    """A pair of layers for one of the tasks."""

    index: int
    task: TransferTask
    planned: PlannedPair

    @property
    def pair(self) -> LayerPair:
        return self.planned.pair

    @property
    def drift(self) -> Drift | None:
        return self.task.drifts.get(self.pair.target.name)

    def needs_new_drift(self) -> bool:
        return self.planned.action == "transfer" and self.task.plan.method.needs_drift and self.drift is None

    def delta(self, channels: Channels | None) -> LowRankDelta:
        """The delta (m, n) of the source layer, cut to the channels that the target kept."""
        delta = self.task.deltas[self.pair.source.name].to("cpu", torch.float32)
        return delta if channels is None else channels.delta(delta)


LayerResult = tuple[LowRankDelta, LayerReport]


def transfer_pair(
    jobs: Sequence[LayerJob], comparison: Comparison[Any], using: Resources
) -> list[LayerResult | Exception]:
    """Transfer the deltas of one pair of layers for every task that has it."""
    pair, channels = jobs[0].pair, comparison.channels.get(jobs[0].pair.target.name)
    readers = (
        LayerReader(comparison.source, pair.source, using, channels),
        LayerReader(comparison.target, pair.target, using),
    )
    deltas = [attempt(partial(job.delta, channels)) for job in jobs]

    def work(device: torch.device) -> list[LayerResult | Exception]:
        bases = _PairBases(readers, device)
        here = [delta if isinstance(delta, Exception) else delta.to(device) for delta in deltas]
        drifts = _measure_new_drifts(jobs, here, bases)
        return [_transfer_layer(job, delta, drift, bases) for job, delta, drift in zip(jobs, here, drifts, strict=True)]

    if all(job.planned.action == "copy" for job in jobs):
        return work(CPU)
    _read_ahead(jobs, readers, using.device)
    return using.compute(work, pair.target.name)


class _PairBases:
    """What methods read of a pair of layers, on a device: each at most once for all adapters."""

    def __init__(self, readers: tuple[LayerReader, LayerReader], device: torch.device) -> None:
        self.readers, self.device = readers, device
        self._subspaces: dict[RankRule, tuple[Subspace, Subspace]] = {}

    def subspaces(self, rule: RankRule) -> tuple[Subspace, Subspace]:
        if rule not in self._subspaces:
            self._subspaces[rule] = pair_subspaces(*self.readers, rule, self.device)
        return self._subspaces[rule]

    def blocks(self) -> Iterable[tuple[Tensor, Tensor]]:
        """The rows of both weights: in blocks on a processor, all at once on a card."""
        if self.device.type == "cpu":
            return weight_blocks(*self.readers)
        source, target = (reader.weight.to(self.device) for reader in self.readers)
        return [(source, target)]


def _measure_new_drifts(
    jobs: Sequence[LayerJob], deltas: Sequence[LowRankDelta | Exception], bases: _PairBases
) -> list[Drift | Exception | None]:
    """The drift for each job: known, measured now, or None if its method does not need it."""
    drifts: list[Drift | Exception | None] = [None if job.drift is None else job.drift.to(bases.device) for job in jobs]
    directions: dict[int, tuple[Tensor, Tensor]] = {}
    for index, (job, delta) in enumerate(zip(jobs, deltas, strict=True)):
        if isinstance(delta, Exception) or not job.needs_new_drift():
            continue
        own_bases = attempt(delta.bases)
        if isinstance(own_bases, Exception):
            drifts[index] = own_bases
        else:
            directions[index] = own_bases
    if directions:
        measured = measure_drifts(bases.blocks(), list(directions.values()))
        for index, drift in zip(directions, measured, strict=True):
            drifts[index] = drift
    return drifts


def _transfer_layer(
    job: LayerJob, delta: LowRankDelta | Exception, drift: Drift | Exception | None, bases: _PairBases
) -> LayerResult | Exception:
    """Transfer one layer, or pass on why that is impossible."""
    if isinstance(delta, Exception):
        return delta
    if isinstance(drift, Exception):
        return drift
    return attempt(lambda: _by_plan(job, delta, drift, bases))


def _by_plan(job: LayerJob, delta: LowRankDelta, drift: Drift | None, bases: _PairBases) -> LayerResult:
    """Transfer one layer by the plan's method, or copy it if the plan says so."""
    plan, planned = job.task.plan, job.planned
    if planned.action == "copy":
        result, lost = _cut(_apply_gain(delta, plan.settings), delta, planned, plan.settings)
        return result.to("cpu"), describe_layer(planned, delta, result, energy_lost=lost)
    method = plan.method
    subspaces = bases.subspaces(plan.rank_rule) if method.needs_subspaces else None
    projected = method.function(delta, LayerPairBases(subspaces, drift if method.needs_drift else None))
    uncut = _apply_gain(_rescale(projected.delta, delta, planned.similarity, plan.settings), plan.settings)
    result, lost = _cut(uncut, delta, planned, plan.settings)
    report = describe_layer(
        planned,
        delta,
        result,
        energy_lost=lost,
        undefined_directions=projected.undefined_directions,
        block_energies=None if subspaces is None else block_energies(delta, subspaces[0]),
        drift=drift,
    )
    return result.to("cpu"), report


def _read_ahead(jobs: Sequence[LayerJob], readers: tuple[LayerReader, LayerReader], device: torch.device) -> None:
    """Read what the methods need now, while a card works on another layer."""
    methods = {job.task.plan.method for job in jobs if job.planned.action == "transfer"}
    for reader in readers:
        if device.type != "cpu" and any(job.needs_new_drift() for job in jobs):
            reader.read()
        if any(method.needs_subspaces for method in methods):
            reader.prepare()


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
