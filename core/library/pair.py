"""Two bases that many adapters are transferred between: surveyed once, every layer compared at most once."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic

from ..delta import LowRankDelta
from ..layers import LayerPair
from ..matching import Matching, share_lost
from ..resources import CPU, Resources
from ..similarity import AnyBase, Comparison, Measure, compare
from ..subspace import RankRule
from ..survey import Survey, pair_layers
from ..verdict import PairFigures, Verdict, judge, measure_pair, sample_pairs, without_text_encoders


@dataclass(frozen=True)
class KnownPair(Generic[AnyBase]):
    """What is known about two bases so far. It holds no weights.

    survey: of all layers of the source. comparison: of the layers that adapters have needed so far. samples: by target
    layer, the figures of a verdict's sample.
    """

    survey: Survey
    comparison: Comparison[AnyBase]
    samples: Mapping[str, PairFigures] = field(default_factory=dict[str, PairFigures])

    def matching(self, layers: Collection[str]) -> Matching:
        """The matching of these source layers."""
        matching, wanted = self.survey.matching, set(layers)
        return Matching(
            tuple(pair for pair in matching.pairs if pair.source.name in wanted),
            tuple(skipped for skipped in matching.unpaired if skipped.layer in wanted),
            matching.channels,
        )

    def comparison_of(self, layers: Collection[str], adapter: str, verdict: Verdict) -> Comparison[AnyBase]:
        """The comparison of these source layers for one adapter, as `compare` gives it."""
        matching = self.matching(layers)
        known = self.comparison.layers
        return replace(
            self.comparison,
            layers={pair.target.name: known[pair.target.name] for pair in matching.pairs},
            unpaired={skipped.layer: skipped for skipped in matching.unpaired},
            adapter=adapter,
            verdict=verdict,
        )


def survey_pair(
    source: AnyBase,
    target: AnyBase,
    rule: RankRule,
    measure: Measure,
    *,
    match_by: str = "blocks",
    block_map_text: str = "",
    using: Resources | None = None,
) -> KnownPair[AnyBase]:
    """Pair all layers of two bases; nothing is judged or compared yet. Arguments as for `survey`."""
    surveyed = pair_layers(source, target, source.layers, match_by=match_by, block_map_text=block_map_text, using=using)
    nothing_yet = compare(source, target, replace(surveyed, matching=Matching((), ())), rule, measure=measure)
    return KnownPair(surveyed, replace(nothing_yet, channels=surveyed.matching.channels))


def compare_more(known: KnownPair[AnyBase], layers: Collection[str], using: Resources) -> KnownPair[AnyBase]:
    """Compare those of these source layers that no earlier adapter needed."""
    matching, compared = known.matching(layers), known.comparison.layers
    new = tuple(pair for pair in matching.pairs if pair.target.name not in compared)
    if not new:
        return known
    before = known.comparison
    figures = compare(
        before.source,
        before.target,
        Matching(new, (), matching.channels),
        before.rank_rule,
        measure=before.measure,
        using=using,
    )
    return replace(known, comparison=replace(before, layers={**compared, **figures.layers}, notes=figures.notes))


def sample_more(known: KnownPair[AnyBase], matching: Matching, using: Resources) -> KnownPair[AnyBase]:
    """Measure those layers of the matching's sample (verdict.measure_pair) that were in no earlier sample."""
    source, target = known.comparison.source, known.comparison.target
    new = [pair for pair in _sample(source, matching) if pair.target.name not in known.samples]
    figures: dict[str, PairFigures] = {}
    for index, pair in enumerate(new):
        using.progress(index, len(new), pair.target.name)
        single = Matching((pair,), (), matching.channels)
        figures[pair.target.name] = measure_pair(source, target, single, device=CPU)
    return replace(known, samples={**known.samples, **figures})


def judge_adapter(
    known: KnownPair[Any],
    matching: Matching,
    deltas: Mapping[str, LowRankDelta] | None,
) -> Verdict:
    """The verdict for an adapter with this matching. `sample_more` must have measured its sample.

    deltas: by source layer; None if not all of its kinds have factors. `add_drift` adds the only figure that needs the
    weights again for each adapter.
    """
    matching = without_text_encoders(known.comparison.source, matching)
    samples = [known.samples[pair.target.name] for pair in _sample(known.comparison.source, matching)]
    cosines = [sample.weight_cosine for sample in samples if sample.weight_cosine is not None]
    similarities = [sample.similarity for sample in samples if sample.similarity is not None]
    paired = {pair.source.name for pair in matching.pairs}
    total = len(paired) + len(matching.unpaired)
    return judge(
        PairFigures(
            sampled=len(samples),
            matched=len(paired) / total if total else 0.0,
            lost=None if deltas is None else share_lost(matching, _on_layers(matching, deltas)),
            weight_cosine=median(cosines),
            weight_cosine_least=min(cosines, default=None),
            similarity=sum(similarities) / len(similarities) if similarities else None,
            drift=median([sample.drift for sample in samples if sample.drift is not None]),
        )
    )


def add_drift(verdict: Verdict, ratios: Sequence[float]) -> Verdict:
    """The verdict after the transfer. ratios: drift_against_lora of each layer, as in LayerReport."""
    return judge(replace(verdict.figures, drift_against_lora=median(ratios)))


def median(figures: Sequence[float]) -> float | None:
    """The upper median; None without figures."""
    return sorted(figures)[len(figures) // 2] if figures else None


def _sample(source: Any, matching: Matching) -> list[LayerPair]:
    return sample_pairs(without_text_encoders(source, matching).pairs)


def _on_layers(matching: Matching, deltas: Mapping[str, LowRankDelta]) -> dict[str, LowRankDelta]:
    names = {pair.source.name for pair in matching.pairs} | {skipped.layer for skipped in matching.unpaired}
    return {name: delta for name, delta in deltas.items() if name in names}
