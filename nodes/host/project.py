"""Transfers a LoRA to the target base: from the adapter's file to the transferred adapter and its report."""

import time
from dataclasses import dataclass, replace

from ...core.errors import NothingToTransfer
from ...core.layers import Skipped
from ...core.methods import DEFAULT, DEFAULT_FOR_LORA_X
from ...core.pair_kinds import PairKind
from ...core.plan import TransferPlan, TransferSettings, plan_transfer, refuse_unless_forced
from ...core.refine.outlook import advise
from ...core.reports.envelope import Identity
from ...core.reports.line import Line
from ...core.reports.pair_lines import transfer_lines
from ...core.reports.transfer import Report, transfer_report
from ...core.resources import Resources
from ...core.similarity import Comparison
from ...core.transfer import Transferred, TransferTask, transfer
from ...core.vectors import Vector, plan_vectors
from .adapter.adapter import Adapter, LayerChanges, transferred_adapter
from .adapter.group import EMBEDDING, OF_TEXT_ENCODER
from .adapter.lora_x import find_lora_x
from .adapter.read import AdapterOnBase, read_adapter
from .adapter.save import note_growth
from .base.from_model import HostBase
from .kept import cache_lines
from .pair import kind_of_comparison
from .source_doubts import doubt_source


@dataclass(frozen=True)
class ProjectResult:
    """The transferred adapter, the report on every layer, and notes that the user should see at once. kind: of the pair
    of bases; None if nothing is known of it."""

    adapter: Adapter
    report: Report
    notes: tuple[str, ...]
    kind: PairKind | None = None
    kept: tuple[Line, ...] = ()

    def lines(self, *, applied: bool = False) -> tuple[Line, ...]:
        """What the node says: did it work, how well, what was left out and why, which strength, what to do
        next, and what was kept on disk.

        applied: whether the node applies the LoRA too; such a node has a CLIP input of its own.
        """
        lines = (*transfer_lines(self.report, self.kind, self.notes, applied=applied), *self.kept)
        if (count := sum(reason == OF_TEXT_ENCODER for reason in self.report.unread.values())) == 0:
            return lines
        where = "this node" if applied else "both Load Base nodes"
        return (*lines, Line("next", f"Next: connect the CLIP to {where} to transfer these {count} keys too."))

    def summary(self) -> str:
        """The result in one line, for the user."""
        return "; ".join((self.report.summary(), *self.notes))


@dataclass(frozen=True)
class PlannedAdapter:
    """An adapter on its source, and what is to happen to every module of it. vectors: changes of biases and norms that
    are copied; skipped: those that are not."""

    adapter: Adapter
    placed: AdapterOnBase
    plan: TransferPlan
    vectors: tuple[Vector, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()

    def task(self, comparison: Comparison[HostBase]) -> TransferTask:
        return TransferTask(self.plan, self.placed.deltas, comparison.drifts_for(self.plan.adapter))


def project(
    comparison: Comparison[HostBase],
    adapter: Adapter,
    settings: TransferSettings,
    using: Resources,
    *,
    force: bool = False,
) -> ProjectResult:
    """Transfer the adapter to the comparison's target.

    NothingToTransfer if the verdict on the bases is refuse and `force` is off, or if no layer is left.
    """
    started = time.monotonic()
    kind = kind_of_comparison(comparison)
    refuse_unless_forced(comparison, force, advise_refine(kind))
    planned = plan_adapter(comparison, adapter, read_adapter(adapter, comparison.source), settings)
    transferred = transfer(comparison, planned.plan, planned.placed.deltas, using)
    changes, report, notes = describe_result(comparison, planned, transferred, time.monotonic() - started)
    return ProjectResult(transferred_adapter(adapter, changes, report), report, notes, kind, cache_lines(using))


def plan_adapter(
    comparison: Comparison[HostBase], adapter: Adapter, placed: AdapterOnBase, settings: TransferSettings
) -> PlannedAdapter:
    """Plan every module. NothingToTransfer if no layer is left."""
    target = comparison.target
    comparison, settings, notes = choose_for_lora_x(comparison, adapter, settings)
    plan = plan_transfer(comparison, placed.modules, settings, adapter.fingerprint)
    vectors, skipped = plan_vectors(placed.vectors, target.parameters, target.name, comparison.block_map)
    if not plan.pairs and not vectors:
        advice = _advise_on_nothing(plan, comparison, kind_of_comparison(comparison))
        raise NothingToTransfer(plan.why_nothing(comparison.source.name, target.name, advice))
    return PlannedAdapter(adapter, placed, plan, vectors, skipped, notes)


def choose_for_lora_x(
    comparison: Comparison[HostBase], adapter: Adapter, settings: TransferSettings
) -> tuple[Comparison[HostBase], TransferSettings, tuple[str, ...]]:
    """The method and the singular directions for an adapter that says that it was trained inside those of the source,
    with a note that says why; everything as it is for all other adapters, and if the user chose another method."""
    lora_x = find_lora_x(adapter, comparison.source)
    if lora_x is None or settings.method != DEFAULT.name:
        return comparison, settings, ()
    method = DEFAULT_FOR_LORA_X[lora_x.parameterisation]
    doubt = "" if lora_x.doubt is None else f" (in doubt: {lora_x.doubt})"
    note = (
        f"this LoRA was trained inside the singular directions of its source ({lora_x.parameterisation}, "
        f"{lora_x.rule.kind} {lora_x.rule.amount:g}){doubt}; {method.name} measured best for such LoRAs"
    )
    return replace(comparison, rank_rule=lora_x.rule), replace(settings, method=method.name), (note,)


def describe_result(
    comparison: Comparison[HostBase], planned: PlannedAdapter, transferred: Transferred, seconds: float
) -> tuple[LayerChanges, Report, tuple[str, ...]]:
    """What a file is written from, the report on every layer, and notes that the user should see at once."""
    adapter, placed, plan = planned.adapter, planned.placed, planned.plan
    scales, widened = plan.by_target(placed.scales), plan.by_target(placed.widened())
    changes = LayerChanges(comparison.target, transferred.deltas, scales, planned.vectors, widened)
    notes = (*planned.notes, *placed.notes, *note_growth(adapter, changes))
    report = transfer_report(
        comparison,
        plan,
        transferred.layers,
        Identity.of(adapter),
        vectors=planned.vectors,
        skipped=(*placed.skipped, *planned.skipped),
        unread=placed.unread,
        notes=(*transferred.notes, *notes),
        lost=plan.share_lost(placed.factored, comparison.channels) if placed.factored else None,
        unread_share=share_unread(placed),
        doubts=doubt_source(adapter, comparison.source, comparison.target),
        seconds=seconds,
    )
    return changes, report, notes


def advise_refine(kind: PairKind | None) -> str:
    """What to do where nothing can be transferred, with the figures of such a pair if there are any."""
    figures = "" if kind is None else f" It {advise(kind, 'refuse')}."
    return f"Teach it to the target with Refine LoRA instead: a short training, without pictures of yours.{figures}"


def _advise_on_nothing(plan: TransferPlan, comparison: Comparison[HostBase], kind: PairKind | None) -> str:
    """What to do when no layer is left to transfer."""
    scores = [similarity.score(comparison.measure) for similarity in plan.compared]
    related = comparison.verdict is not None and comparison.verdict.word != "refuse"
    if related and any(score is not None and score < plan.settings.threshold for score in scores):
        return "These bases are related: lower threshold."
    return advise_refine(kind)


def share_unread(placed: AdapterOnBase) -> float:
    """The share of the keys that are unread. Those for a text encoder and learned words do not count: a LoRA works
    without them."""
    unread = sum(reason not in (OF_TEXT_ENCODER, EMBEDDING) for reason in placed.unread.values())
    read = sum(len(module.keys) for module in (*placed.modules, *placed.vectors, *placed.skipped))
    return unread / (unread + read) if unread else 0.0
