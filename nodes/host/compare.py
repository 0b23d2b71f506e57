"""Compares two bases: pairs their layers, judges whether a transfer can work, and measures how alike the layers are."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy

from ...core.pair_kinds import PairKind
from ...core.pictures.block_map import block_map_picture
from ...core.pictures.depth import depth_picture
from ...core.pictures.drawing import Size
from ...core.pictures.heatmap import similarity_heatmap
from ...core.reports.envelope import Identity
from ...core.reports.line import Line
from ...core.reports.pair_lines import comparison_lines
from ...core.reports.transfer import Report, similarity_report
from ...core.resources import Resources
from ...core.similarity import Comparison, Measure, compare
from ...core.subspace import RankRule
from ...core.survey import Survey, survey
from .adapter.adapter import Adapter
from .adapter.read import read_adapter
from .base.from_model import HostBase
from .kept import cache_lines
from .pair import kind_of_survey
from .refine.estimate import estimate_outlook
from .source_doubts import doubt_source

_HALF = RankRule("fraction", 0.5)


@dataclass(frozen=True)
class CompareSettings:
    """How two bases are compared. block_map: the user's own pairs of blocks as JSON; empty to pair them by weights."""

    rule: RankRule = _HALF
    measure: Measure = "weight_cosine"
    match_by: str = "blocks"
    block_map: str = ""


@dataclass(frozen=True)
class CompareResult:
    """The comparison that a transfer needs, and what the node shows of it."""

    survey: Survey
    comparison: Comparison[HostBase]
    report: Report
    kind: PairKind | None = None
    kept: tuple[Line, ...] = ()

    def lines(self) -> tuple[Line, ...]:
        """What the node says: will it work, how well, what has no partner and why, what to do next, and what was kept
        on disk."""
        return (*comparison_lines(self.report, self.kind), *self.kept)

    def pictures(self, size: Size) -> Iterator[numpy.ndarray]:
        """The heatmap of all layers, the map of all blocks, and the similarity along the depth."""
        names = self.comparison.source.name, self.comparison.target.name
        yield similarity_heatmap(self.report, size)
        yield block_map_picture(self.survey.scores, self.survey.block_map, *names, size)
        yield depth_picture(self.report, size)


def compare_bases(
    source: HostBase,
    target: HostBase,
    adapter: Adapter | None,
    settings: CompareSettings,
    using: Resources,
    tell: Callable[[str], None],
) -> CompareResult:
    """Compare the layers that the adapter changes, or all layers without one.

    tell: gets the verdict as text as soon as it is known, because the comparison takes longer.
    """
    started = time.monotonic()
    placed = None if adapter is None else read_adapter(adapter, source)
    layers = source.own_layers() if placed is None else placed.layers()
    deltas = None if placed is None else placed.factored
    surveyed = survey(
        source,
        target,
        layers,
        match_by=settings.match_by,
        block_map_text=settings.block_map,
        deltas=deltas,
        using=using,
    )
    kind = kind_of_survey(source, target, surveyed)
    refine = estimate_outlook(surveyed.verdict, kind, target)
    if surveyed.verdict is not None and refine is not None:
        tell(f"{surveyed.verdict.summary()}\n{refine.sentence()}")
    comparison = compare(
        source,
        target,
        surveyed,
        settings.rule,
        measure=settings.measure,
        deltas=deltas,
        adapter=None if adapter is None else adapter.fingerprint,
        using=using,
    )
    identity = None if adapter is None else Identity.of(adapter)
    doubts = () if adapter is None else doubt_source(adapter, source, target)
    report = similarity_report(comparison, identity, time.monotonic() - started, refine, doubts)
    return CompareResult(surveyed, comparison, report, kind, cache_lines(using))
