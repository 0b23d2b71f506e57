"""Which measured kind a pair of bases belongs to: the figures that a user is told must be of such a pair."""

import dataclasses
from typing import Any

import pytest

from lora_transfer.core.pair_kinds import KINDS, PairFacts, PairKind, compare_layouts, kind_of_pair
from lora_transfer.core.verdict import PairFigures, judge
from tests.core.bases import CountingBase, related_bases
from tests.core.test_verdict import GOOD

STRANGER: dict[str, Any] = {"matched": 0.0, "weight_cosine": 0.001}


def kind(*, figures: PairFigures = GOOD, layouts: Any = "same", **facts: Any) -> PairKind:
    known: dict[str, Any] = {"same_depth": True, "narrower": False, "same_latents": True, "unets": (True, True)}
    return kind_of_pair(PairFacts(judge(figures), layouts, **{**known, **facts}))


def of(**figures: Any) -> PairFigures:
    return dataclasses.replace(GOOD, **figures)


@pytest.mark.parametrize(
    ("cosine", "lost", "same_depth", "name"),
    [
        # the rows of "What the verdict says" in benchmarks/quality/RESULTS.md
        (1.000, 0.0, True, "near"),
        (0.996, 0.0, True, "drifted"),
        (0.995, 0.0, True, "drifted"),
        (0.968, 0.0, True, "far"),
        (0.964, 0.0, True, "far"),
        (0.999, 0.0, True, "near"),
        (0.994, 0.371, False, "pruned"),
        (0.985, 0.403, False, "pruned"),
        # what was not measured
        (0.90, 0.0, True, "farther"),
        (0.35, 0.0, True, "farther"),
        (0.90, 0.4, False, "farther"),
        (0.99, 0.7, False, "lost more"),
        (0.99, 0.3, True, "lost layers"),
        (0.99, 0.0, False, "grown"),
        (None, 0.0, True, "unknown"),
    ],
)
def test_a_related_pair_is_of_the_kind_that_was_measured_with_its_figures(
    cosine: float | None, lost: float, same_depth: bool, name: str
) -> None:
    assert kind(figures=of(weight_cosine=cosine, lost=lost), same_depth=same_depth) == KINDS[name]


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({}, "other seed"),
        ({"layouts": "other width"}, "other width"),
        ({"layouts": "other", "unets": (True, False)}, "UNet to transformer"),
        ({"layouts": "other", "unets": (False, True)}, "transformer to UNet"),
        ({"layouts": "other"}, "other architecture"),
        ({"layouts": "other", "unets": (True, False), "same_latents": False}, "other latents"),
        ({"same_latents": False}, "other latents"),
    ],
)
def test_an_unrelated_pair_is_of_a_kind_by_its_architectures_and_latents(facts: dict[str, Any], name: str) -> None:
    assert kind(figures=of(**STRANGER), **facts) == KINDS[name]


def test_bases_that_share_a_few_layers_and_nothing_else_are_unrelated() -> None:
    assert kind(figures=of(lost=0.99, matched=0.02)) == KINDS["other seed"]


def test_a_narrower_target_has_no_figures_and_a_distilled_one_those_of_the_turbo_child() -> None:
    assert kind(narrower=True) == KINDS["narrower"]
    assert kind(figures=of(weight_cosine=0.999), distilled=True) == KINDS["turbo"]
    assert kind(figures=of(weight_cosine=0.96), distilled=True) == KINDS["far"]


def test_every_figure_is_a_share_and_refining_never_measured_worse() -> None:
    for known in KINDS.values():
        gains = [*known.transferred.values(), *(gain for gain in (known.start, known.refined) if gain is not None)]
        assert all(0 < share <= 1 for gain in gains for share in gain)
        if known.start is not None and known.refined is not None:
            assert all(after >= before for before, after in zip(known.start, known.refined, strict=True))
        assert known.measured == bool(gains)


def test_layouts_are_the_same_or_of_another_width_or_other() -> None:
    source, target = related_bases()
    assert compare_layouts(source, source) == "same"
    assert compare_layouts(source, target) == "other"  # it lacks a layer
    wide = CountingBase("wide", {name: weight.repeat(2, 1) for name, weight in _matrices(source).items()})
    same_names = CountingBase("same names", _matrices(source))
    assert compare_layouts(same_names, wide) == "other width"
    assert compare_layouts(source, CountingBase("other", {})) == "other"


def _matrices(base: Any) -> Any:
    return {name: base.read(layer) for name, layer in base.layers.items()}
