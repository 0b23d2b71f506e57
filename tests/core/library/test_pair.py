"""A pair that is surveyed once gives every adapter what a survey and a comparison of its own give."""

from lora_transfer.core.layers import Base
from lora_transfer.core.library.pair import add_drift, compare_more, judge_adapter, sample_more, survey_pair
from lora_transfer.core.resources import Resources
from lora_transfer.core.similarity import compare
from lora_transfer.core.subspace import RankRule
from lora_transfer.core.survey import survey
from tests.core.bases import CountingBase, related_bases
from tests.core.test_transfer import Job

RULE = RankRule("fraction", 0.5)


def known_pair(source: Base, target: Base):
    return survey_pair(source, target, RULE, "weight_cosine")


def test_the_comparison_equals_that_of_one_adapter() -> None:
    job, using = Job(), Resources()
    layers = ["a.0.q", "b.gone"]
    known = known_pair(job.source, job.target)
    matching = known.matching(layers)
    known = compare_more(sample_more(known, matching, using), layers, using)
    deltas = {name: job.deltas[name] for name in layers}
    surveyed = survey(job.source, job.target, layers, deltas=deltas)
    assert surveyed.verdict is not None
    verdict = judge_adapter(known, matching, deltas)
    if (ratio := surveyed.verdict.figures.drift_against_lora) is not None:
        verdict = add_drift(verdict, [ratio])
    alone = compare(job.source, job.target, surveyed, RULE, measure="weight_cosine")
    shared = known.comparison_of(layers, "me", verdict)
    assert shared.layers == alone.layers
    assert shared.unpaired == alone.unpaired
    assert shared.verdict == alone.verdict


def test_pairing_the_layers_judges_nothing() -> None:
    source, target = related_bases()
    survey(source, target, source.layers)
    judged = _reads(source, target)
    source, target = related_bases()
    known = known_pair(source, target)
    assert known.survey.verdict is None
    assert _reads(source, target) < judged


def test_a_layer_is_compared_for_the_first_adapter_only() -> None:
    source, target = related_bases()
    using, layers = Resources(), list(source.layers)
    known = known_pair(source, target)
    known = compare_more(known, layers, using)
    reads = _reads(source, target)
    assert compare_more(known, layers, using) is known
    assert _reads(source, target) == reads


def test_a_sample_is_measured_for_the_first_adapter_only() -> None:
    source, target = related_bases()
    using = Resources()
    known = known_pair(source, target)
    matching = known.matching(list(source.layers))
    known = sample_more(known, matching, using)
    reads = _reads(source, target)
    sample_more(known, matching, using)
    assert _reads(source, target) == reads


def _reads(*bases: CountingBase) -> int:
    return sum(sum(base.reads.values()) for base in bases)
