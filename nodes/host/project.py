"""Transfers a LoRA to the target base: from the adapter's file to the transferred adapter and its report."""

import time
from dataclasses import dataclass

from ...core.errors import NothingToTransfer
from ...core.plan import TransferSettings, plan_transfer, refuse_unless_forced
from ...core.reports.envelope import Identity
from ...core.reports.line import Line
from ...core.reports.transfer import Report, transfer_report
from ...core.resources import Resources
from ...core.similarity import Comparison
from ...core.transfer import transfer
from ...core.vectors import plan_vectors
from .adapter.adapter import Adapter, LayerChanges, transferred_adapter
from .adapter.read import read_adapter
from .adapter.save import note_growth
from .base.from_model import HostBase


@dataclass(frozen=True)
class ProjectResult:
    """The transferred adapter, the report on every layer, and notes that the user should see at once."""

    adapter: Adapter
    report: Report
    notes: tuple[str, ...]

    def summary(self) -> str:
        """The result in one line, for the user."""
        return "; ".join((self.report.summary(), *self.notes))

    def lines(self) -> tuple[Line, ...]:
        """The result as sentences for the node."""
        return (*self.report.lines(), *(Line.sentence("plain", note) for note in self.notes))


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
    source, target = comparison.source, comparison.target
    refuse_unless_forced(comparison, force)
    placed = read_adapter(adapter, source)
    plan = plan_transfer(comparison, placed.modules, settings, adapter.fingerprint)
    vectors, skipped = plan_vectors(placed.vectors, target.parameters, target.name, comparison.block_map)
    if not plan.pairs and not vectors:
        raise NothingToTransfer(plan.why_nothing(source.name, target.name))
    transferred = transfer(comparison, plan, placed.deltas, using)
    scales, widened = plan.by_target(placed.scales), plan.by_target(placed.widened())
    changes = LayerChanges(target, transferred.deltas, scales, vectors, widened)
    notes = (*placed.notes, *note_growth(adapter, changes.tensors()))
    report = transfer_report(
        comparison,
        plan,
        transferred.layers,
        Identity.of(adapter),
        vectors=vectors,
        skipped=(*placed.skipped, *skipped),
        unread=placed.unread,
        notes=(*transferred.notes, *notes),
        lost=plan.share_lost(placed.factored, comparison.channels) if placed.factored else None,
        seconds=time.monotonic() - started,
    )
    return ProjectResult(transferred_adapter(adapter, changes, report), report, notes)
