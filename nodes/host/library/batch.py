"""Transfers a batch of LoRA files: the weights of the bases are read once for all of them.

All arithmetic is on one thread: the last digits of a sum, and so of a report, depend on the number of threads.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ....core.attempt import attempt
from ....core.errors import NothingToTransfer
from ....core.library.entry import Entry, Output
from ....core.library.pair import KnownPair, add_drift, compare_more, judge_adapter, sample_more
from ....core.library.risks import find_risks
from ....core.library.schedule import Job
from ....core.reports.transfer import Report
from ....core.resources import Resources, single_threaded
from ....core.transfer import Transferred, transfer_many
from ....core.verdict import Verdict, most_severe
from ..adapter.adapter import LayerChanges
from ..adapter.metadata import transferred_metadata
from ..adapter.save import cast_for_file, respell_changes
from ..base.from_model import HostBase
from ..project import PlannedAdapter, describe_result, plan_adapter
from ..source_doubts import doubt_source
from .open import Failure, OpenFile, fail
from .settings import LibrarySettings
from .write import OutputFolder

_STRIP = 48  # parts of the model in an entry's strip


@dataclass(frozen=True)
class Batch:
    """What all files of a run share."""

    source: HostBase
    target: HostBase
    job: Job
    settings: LibrarySettings
    using: Resources


@dataclass(frozen=True)
class Planned:
    """A LoRA with its plan, the verdict on it, and doubts whether it belongs to the source."""

    opened: OpenFile
    planned: PlannedAdapter
    verdict: Verdict
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class Done:
    """A transferred LoRA that is not written yet."""

    plan: Planned
    changes: LayerChanges
    report: Report
    seconds: float


@single_threaded()
def plan_batch(
    known: KnownPair[HostBase], files: Sequence[OpenFile | Failure], batch: Batch
) -> tuple[KnownPair[HostBase], list[Planned | Failure]]:
    """Judge and plan open files. Layers that no earlier file needed are compared."""
    accepted: list[tuple[OpenFile, Verdict] | Failure] = []
    for opened in files:
        if isinstance(opened, OpenFile):
            known = sample_more(known, known.matching(opened.placed.layers()), batch.using)
            accepted.append(_accept(known, opened, batch.settings.force))
        else:
            accepted.append(opened)
    layers = {layer for item in accepted if isinstance(item, tuple) for layer in item[0].placed.layers()}
    known = compare_more(known, layers, batch.using)
    return known, [item if isinstance(item, Failure) else _plan(known, *item, batch) for item in accepted]


def transfer_batch(
    known: KnownPair[HostBase], plans: Sequence[Planned | Failure], batch: Batch
) -> Iterator[Done | Failure]:
    """Transfer what was planned, all together; the results are finished one by one, in the order of the files."""
    started = time.monotonic()
    planned = [item for item in plans if isinstance(item, Planned)]
    results = iter(
        transfer_many(known.comparison, [item.planned.task(known.comparison) for item in planned], batch.using)
    )
    share = (time.monotonic() - started) / max(1, len(planned))
    for item in plans:
        yield item if isinstance(item, Failure) else _finish(known, item, next(results), share)


@single_threaded()
def write_result(done: Done, batch: Batch, folder: OutputFolder, before: Output | None) -> Entry:
    """Write a transferred LoRA, and give its line for the manifest. before: what an earlier run wrote for it."""
    started = time.monotonic()
    opened, report = done.plan.opened, done.report
    try:
        output = attempt(lambda: _write(done, batch.settings, folder, before))
    except (MemoryError, RuntimeError) as error:  # out of memory
        output = error
    if isinstance(output, Exception):
        return entry_of_failure(fail(opened.file, opened.mark, output, done.seconds, done.plan.verdict), batch.job)
    ratio = None if report.verdict is None else report.verdict.figures.drift_against_lora
    return replace(
        entry_of_plan(done.plan, batch),
        outcome="transferred",
        verdict=report.word,
        reasons=(*done.plan.verdict.reasons, *report.doubts),
        risks=find_risks(done.plan.verdict, report.word, _finite(report.lost), report.doubts),
        counts=report.counts(),
        lost=_finite(report.lost),
        drift_against_lora=_finite(ratio),
        notes=report.notes,
        output=output,
        seconds=done.seconds + time.monotonic() - started,
        finished=time.time(),
    )


def _write(done: Done, settings: LibrarySettings, folder: OutputFolder, before: Output | None) -> Output:
    opened, changes = done.plan.opened, done.changes
    spelled = respell_changes(changes, settings.spelling, opened.file.name)
    tensors = cast_for_file(spelled, opened.adapter, settings.dtype)
    metadata = None
    if settings.metadata:
        named = spelled if settings.spelling == "comfy" else changes.tensors()
        metadata = transferred_metadata(opened.adapter.metadata, named, done.report, changes.base)
    return folder.write(opened.file.output, tensors, metadata, before)


def entry_of_plan(plan: Planned, batch: Batch) -> Entry:
    """The line of a LoRA that is planned."""
    opened, transfer = plan.opened, plan.planned.plan
    actions = [planned.action for planned in transfer.pairs]
    skipped = (*opened.placed.skipped, *plan.planned.skipped, *transfer.skipped)
    word = most_severe(plan.verdict.word, "risky") if plan.doubts else plan.verdict.word
    return Entry(
        opened.file.name,
        opened.mark,
        batch.job.source,
        batch.job.target,
        batch.job.settings,
        "planned",
        verdict=word,
        reasons=(*plan.verdict.reasons, *plan.doubts),
        risks=find_risks(plan.verdict, word, _finite(plan.verdict.figures.lost), plan.doubts),
        counts={
            "transferred": actions.count("transfer"),
            "copied": actions.count("copy"),
            "skipped": len(skipped),
            "vectors": len(plan.planned.vectors),
        },
        lost=_finite(plan.verdict.figures.lost),
        strip=_strip(plan, batch.source),
        notes=opened.placed.notes,
        seconds=opened.seconds,
        finished=time.time(),
    )


def entry_of_failure(failure: Failure, job: Job) -> Entry:
    """The line of a LoRA without a result."""
    verdict = failure.verdict
    return Entry(
        failure.file.name,
        failure.mark,
        job.source,
        job.target,
        job.settings,
        failure.outcome,
        failure.reason,
        verdict=None if verdict is None else verdict.word,
        reasons=() if verdict is None else verdict.reasons,
        lost=None if verdict is None else _finite(verdict.figures.lost),
        seconds=failure.seconds,
        finished=time.time(),
    )


def _accept(known: KnownPair[HostBase], opened: OpenFile, force: bool) -> tuple[OpenFile, Verdict] | Failure:
    """Judge a LoRA, and refuse it if the verdict says so."""
    matching = known.matching(opened.placed.layers())
    # The factors of a hostile file are computed here for the first time.
    verdict = attempt(lambda: judge_adapter(known, matching, opened.deltas()))
    if isinstance(verdict, Exception):
        return fail(opened.file, opened.mark, verdict, opened.seconds)
    if verdict.word != "refuse" or force:
        return opened, verdict
    reason = "; ".join(verdict.reasons)
    return Failure(opened.file, opened.mark, "refused", reason, verdict, opened.seconds)


def _plan(known: KnownPair[HostBase], opened: OpenFile, verdict: Verdict, batch: Batch) -> Planned | Failure:
    adapter = opened.adapter
    comparison = known.comparison_of(opened.placed.layers(), adapter.fingerprint, verdict)
    try:
        planned = plan_adapter(comparison, adapter, opened.placed, batch.settings.transfer)
    except NothingToTransfer as error:
        return Failure(opened.file, opened.mark, "refused", str(error), verdict, opened.seconds)
    return Planned(opened, planned, verdict, doubt_source(adapter, batch.source, batch.target))


@single_threaded()
def _finish(known: KnownPair[HostBase], plan: Planned, result: Transferred | Exception, share: float) -> Done | Failure:
    """Report on a transferred LoRA. share: its share of the seconds that the batch took."""
    started = time.monotonic()
    opened, seconds = plan.opened, plan.opened.seconds + share
    done = result if isinstance(result, Exception) else attempt(lambda: _report(known, plan, result))
    if isinstance(done, Exception):
        return fail(opened.file, opened.mark, done, seconds, plan.verdict)
    return replace(done, seconds=seconds + time.monotonic() - started)


def _report(known: KnownPair[HostBase], plan: Planned, result: Transferred) -> Done:
    """The report and the verdict, now with the drift beside the LoRA's own change."""
    layers, adapter = plan.opened.placed.layers(), plan.opened.adapter
    ratios = [layer.drift_against_lora for layer in result.layers if layer.drift_against_lora is not None]
    verdict = add_drift(plan.verdict, ratios)
    comparison = known.comparison_of(layers, adapter.fingerprint, verdict)
    changes, report, _ = describe_result(comparison, plan.planned, result, 0.0)
    return Done(replace(plan, verdict=verdict), changes, report, 0.0)


def _strip(plan: Planned, source: HostBase) -> str:
    """An entry's strip, from the plan."""
    order = {name: index for index, name in enumerate(source.layers)}
    kept = {planned.pair.source.name for planned in plan.planned.plan.pairs}
    parts: list[list[bool]] = [[] for _ in range(_STRIP)]
    for layer in plan.opened.placed.layers():
        parts[order[layer] * _STRIP // len(order)].append(layer in kept)
    return "".join("-" if not part else str(math.floor(9 * sum(part) / len(part))) for part in parts)


def _finite(figure: float | None) -> float | None:
    """JSON has no NaN and no infinity, which a hostile file can cause."""
    return figure if figure is not None and math.isfinite(figure) else None
