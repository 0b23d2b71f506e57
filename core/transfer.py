"""Transfers adapters' deltas from the source base to the target base, one layer at a time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .delta import LowRankDelta
from .plan import TransferPlan
from .reports.layer import LayerReport
from .resources import Resources
from .similarity import Comparison
from .transfer_layer import LayerJob, LayerResult, TransferTask, transfer_pair


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
    task = TransferTask(plan, deltas, comparison.drifts_for(plan.adapter))
    (result,) = transfer_many(comparison, [task], using)
    if isinstance(result, Exception):
        raise result
    return result


def transfer_many(
    comparison: Comparison[Any], tasks: Sequence[TransferTask], using: Resources | None = None
) -> list[Transferred | Exception]:
    """Transfer several adapters between the same bases; every weight is read once for all of them.

    Result i belongs to task i, and does not depend on the other tasks. It is an exception if that adapter cannot be
    transferred: the first in the order of its plan. An error of a base is raised. Memory: as for `transfer`, with all
    adapters and all results.
    """
    resources = using or Resources()
    by_target: dict[str, list[LayerJob]] = {}
    for index, task in enumerate(tasks):
        for planned in task.plan.pairs:
            by_target.setdefault(planned.pair.target.name, []).append(LayerJob(index, task, planned))

    def work(jobs: list[LayerJob]) -> list[LayerResult | Exception]:
        return transfer_pair(jobs, comparison, resources)

    layers = list(by_target.values())
    results = resources.over_layers(layers, work, _cost, lambda jobs: jobs[0].pair.target.name)
    by_task: list[dict[str, LayerResult | Exception]] = [{} for _ in tasks]
    for jobs, outcomes in zip(layers, results, strict=True):
        for job, outcome in zip(jobs, outcomes, strict=True):
            by_task[job.index][job.pair.target.name] = outcome
    notes = tuple(resources.notes.values())
    return [_collect(task, outcomes, notes) for task, outcomes in zip(tasks, by_task, strict=True)]


def _cost(jobs: Sequence[LayerJob]) -> int:
    return math.prod(jobs[0].pair.source.weight.shape)


def _collect(
    task: TransferTask, outcomes: Mapping[str, LayerResult | Exception], notes: tuple[str, ...]
) -> Transferred | Exception:
    deltas: dict[str, LowRankDelta] = {}
    reports: list[LayerReport] = []
    for planned in task.plan.pairs:
        outcome = outcomes[planned.pair.target.name]
        if isinstance(outcome, Exception):
            return outcome
        deltas[planned.pair.target.name] = outcome[0]
        reports.append(outcome[1])
    return Transferred(deltas, tuple(reports), notes)
