import pytest
import torch

from lora_transfer.core import subspace
from lora_transfer.core.delta import LowRankDelta
from lora_transfer.core.drift import compare_weights
from lora_transfer.core.kinds import full
from lora_transfer.core.matching import match_by_name
from lora_transfer.core.pictures.heatmap import similarity_heatmap
from lora_transfer.core.reports.transfer import similarity_report
from lora_transfer.core.resources import Resources
from lora_transfer.core.similarity import LayerSimilarity, compare, layer_similarity, side_similarity
from lora_transfer.core.subspace import RankRule, subspaces
from lora_transfer.core.transfer import transfer
from tests import oracle
from tests.core.bases import CountingBase, related_bases
from tests.core.test_transfer import Job


def compared(source: torch.Tensor, target: torch.Tensor, rule: RankRule) -> LayerSimilarity:
    figures, _ = compare_weights(source, target)
    return layer_similarity(figures, subspaces(source, target, rule))


@pytest.mark.parametrize("rule", [RankRule("fixed", 9), RankRule("fraction", 0.5), RankRule("energy", 0.9)])
@pytest.mark.parametrize("shape", [(48, 40), (40, 48), (44, 44)])
def test_phi_matches_the_oracle(generator: torch.Generator, shape: tuple[int, int], rule: RankRule) -> None:
    source = torch.randn(*shape, generator=generator)
    target = source + 0.4 * torch.randn(*shape, generator=generator)
    found = compared(source, target, rule)
    projectors = oracle.Projectors.of(source, target, rule.kind, rule.amount)
    left, right = projectors.similarity()
    assert found.rank == projectors.k
    assert found.left.phi == pytest.approx(left, abs=2e-7)
    assert found.right.phi == pytest.approx(right, abs=2e-7)


def test_unrelated_layers_score_at_their_chance_level() -> None:
    scores = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        weights = torch.randn(60, 90, generator=generator), torch.randn(60, 90, generator=generator)
        found = compared(*weights, RankRule("fraction", 0.5))
        assert found.left.chance == 0.5
        assert found.right.chance == pytest.approx(1 / 3)
        scores.append(found.above_chance)
    assert sum(scores) / len(scores) == pytest.approx(0, abs=0.01)


def test_a_loose_cut_makes_unrelated_square_layers_look_alike(generator: torch.Generator) -> None:
    """docs/method.md, section 2: they score 0.76, so 0.8 means nothing without the chance level."""
    weights = torch.randn(200, 200, generator=generator), torch.randn(200, 200, generator=generator)
    found = compared(*weights, RankRule("fraction", 0.76))
    assert found.phi == pytest.approx(0.76, abs=0.01)
    assert found.above_chance == pytest.approx(0, abs=0.03)


def test_equal_layers_score_one() -> None:
    basis, _ = torch.linalg.qr(torch.randn(30, 8, generator=torch.Generator().manual_seed(0)))
    assert side_similarity(basis, basis).phi == pytest.approx(1, abs=1e-5)
    assert side_similarity(basis, basis).above_chance == pytest.approx(1, abs=1e-5)


def test_a_complete_side_shows_nothing_and_is_not_in_the_mean(generator: torch.Generator) -> None:
    weights = torch.randn(20, 50, generator=generator), torch.randn(20, 50, generator=generator)
    found = compared(*weights, RankRule("fraction", 1.0))
    assert found.left.phi is None
    assert found.left.above_chance is None
    assert found.phi == found.right.phi
    square = weights[0][:, :20], weights[1][:, :20]
    assert compared(*square, RankRule("fixed", 320)).phi is None


def test_a_weight_of_zeros_has_no_similarity(generator: torch.Generator) -> None:
    weights = torch.zeros(12, 12), torch.randn(12, 12, generator=generator)
    found = compared(*weights, RankRule("fraction", 0.5))
    assert (found.phi, found.weight_cosine, found.drift) == (None, None, None)


def test_a_comparison_accounts_for_every_layer_and_reads_each_weight_once() -> None:
    source, target = related_bases()
    steps: list[tuple[int, int, str]] = []
    found = compare(
        source,
        target,
        match_by_name(source.layers, target.layers, source.layers),
        RankRule("fraction", 0.5),
        using=Resources(progress=lambda *step: steps.append(step)),
    )
    assert set(found.layers) | set(found.unpaired) == set(source.layers)
    assert found.unpaired["b.gone"].reason == "the target base has no layer of this name"
    assert set(source.reads.values()) == set(target.reads.values()) == {1}
    assert steps == [(0, 3, ""), (1, 3, "a.0.q"), (2, 3, "a.0.up"), (3, 3, "a.1.conv")]  # the costliest first
    _, figures = found.layers["a.0.q"]
    assert figures.drift == pytest.approx(0.2, abs=0.02)
    assert figures.weight_cosine == pytest.approx(0.98, abs=0.01)


def test_by_weight_cosine_each_weight_is_read_once_for_a_whole_transfer_and_nothing_is_decomposed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = Job()
    monkeypatch.setattr(subspace, "leading_svd", None)
    plain = job.run(method="restore_both")
    job.source.reads.clear()
    job.target.reads.clear()
    rule = RankRule("fraction", 0.5)
    job.comparison = compare(
        job.source, job.target, job.matching, rule, measure="weight_cosine", deltas=job.deltas, adapter="me"
    )
    plan = job.plan(threshold=0.9)
    transferred = transfer(job.comparison, plan, job.deltas)
    assert set(job.source.reads.values()) == set(job.target.reads.values()) == {1}
    assert all(torch.equal(transferred.deltas[name].dense(), plain.deltas[name].dense()) for name in plain.deltas)
    assert plan.pairs[0].reason == "weight cosine 0.978 is at least 0.9"
    assert plan.pairs[0].similarity.phi is None
    report = similarity_report(job.comparison, None, 0.0)
    assert report.as_json()["settings"]["measure"] == "weight_cosine"
    assert "weight cosine 0.98" in report.summary()
    assert similarity_heatmap(report).shape[2] == 3


def test_a_drift_as_large_as_its_weight_is_not_stored() -> None:
    generator = torch.Generator().manual_seed(1)
    weights = {name: torch.randn(64, 64, generator=generator) for name in ("a.q", "a.k")}
    base = CountingBase("base", weights)
    small = LowRankDelta(torch.randn(64, 2, generator=generator), torch.randn(2, 64, generator=generator))
    deltas = {"a.q": full(small.dense()), "a.k": small}
    matching = match_by_name(base.layers, base.layers, base.layers)
    rule = RankRule("fraction", 0.5)
    found = compare(base, base, matching, rule, measure="weight_cosine", deltas=deltas, adapter="me")
    assert set(found.drifts) == {"a.k"}
    assert found.adapter == "me"
    assert not compare(base, base, matching, rule, deltas=deltas).drifts


def test_drifts_that_were_measured_for_another_adapter_are_measured_again() -> None:
    job = Job()
    job.comparison = compare(
        job.source,
        job.target,
        job.matching,
        RankRule("fraction", 0.5),
        measure="weight_cosine",
        deltas=job.deltas,
        adapter="another",
    )
    expected = Job().run(method="restore")
    job.deltas = {name: delta.scaled(1.0) for name, delta in job.deltas.items()}
    again = job.run(method="restore")
    assert set(job.source.reads.values()) == {2}  # once for the comparison, once for this adapter
    assert all(torch.equal(again.deltas[name].dense(), delta.dense()) for name, delta in expected.deltas.items())


def test_a_method_of_subspaces_decomposes_the_weights_where_the_comparison_did_not() -> None:
    job, measured = Job(), Job()
    job.comparison = compare(
        job.source, job.target, job.matching, RankRule("fraction", 0.5), measure="weight_cosine", deltas=job.deltas
    )
    deltas, expected = job.run(method="prolora").deltas, measured.run(method="prolora").deltas
    assert all(torch.equal(deltas[name].dense(), delta.dense()) for name, delta in expected.items())
