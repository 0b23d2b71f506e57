"""The figures of a check, on changes for which they are known."""

import json
import math

import pytest
import torch
from torch import Tensor

from lora_transfer.core.check import STRENGTHS, Attempt, Trial, best_trial, difference, measure
from lora_transfer.core.errors import NotMeasurable
from lora_transfer.core.reports.check import CheckReport
from lora_transfer.core.reports.envelope import Identity

SHAPE = 3, 2, 4, 5, 5  # levels, seeds, latent


def random(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def same_bases(strength: float, on_target: Tensor, on_source: Tensor) -> Attempt:
    """The bare models agree, so that the gap is the adapter's own change."""
    return measure(strength, on_target, on_source, -on_source)


def trial(
    role: str,
    on_target: Tensor,
    on_source: Tensor,
    strengths: tuple[float, ...] = (1.0,),
    apart: Tensor | None = None,
) -> Trial:
    """An adapter whose effect is linear in its strength; without `apart` the bare models agree."""
    way = -on_source if apart is None else apart
    attempts = tuple(measure(strength, strength * on_target, on_source, way) for strength in strengths)
    label = "the plain copy" if role == "copy" else role
    return Trial(role, label, f"{role}.safetensors", "sha", "all keys applied", attempts)  # pyright: ignore[reportArgumentType]


def report(*trials: Trial) -> CheckReport:
    source, target, adapter = (Identity(name, "sha") for name in ("source", "target", "adapter"))
    return CheckReport(source, target, adapter, {"seeds": 2}, (9.0, 3.0, 1.0), trials)


def test_the_same_change_closes_the_whole_gap() -> None:
    found = same_bases(1.0, random(1), random(1))
    for agreement in (found.pooled, *found.levels):
        assert agreement is not None
        assert agreement.gap_closed == 1
        assert agreement.change_match == 1
        assert agreement.cosine == pytest.approx(1)
        assert agreement.norm_ratio == 1


def test_no_change_is_zero_and_the_opposite_change_is_minus_three() -> None:
    nothing, opposite = (same_bases(1.0, factor * random(1), random(1)).pooled for factor in (0.0, -1.0))
    assert (nothing.gap_closed, nothing.change_match, nothing.cosine, nothing.norm_ratio) == (0, 0, 0, 0)
    assert opposite.gap_closed == pytest.approx(-3)
    assert opposite.change_match == pytest.approx(-3)
    assert opposite.cosine == pytest.approx(-1)


def test_half_the_strength_closes_three_quarters_of_the_gap() -> None:
    found = same_bases(0.5, random(1) / 2, random(1)).pooled
    assert found.gap_closed == found.change_match == pytest.approx(0.75)
    assert found.norm_ratio == pytest.approx(0.5)


@pytest.mark.parametrize("strength", [0.25, 1.0, 2.0])
def test_between_bases_that_agree_both_figures_are_one(strength: float) -> None:
    found = same_bases(strength, strength * random(1) + random(2), random(1))
    for agreement in (found.pooled, *found.levels):
        assert agreement is not None
        assert agreement.gap_closed == agreement.change_match


def test_undoing_the_drift_closes_the_gap_and_g_counts_it_as_an_error() -> None:
    effect, drift = random(1), 0.8 * random(2)  # the target without is the source without, plus drift
    repaired, transferred = (measure(1.0, change, effect, drift - effect).pooled for change in (effect - drift, effect))
    assert repaired.gap_closed == pytest.approx(1)
    assert repaired.change_match == pytest.approx(0.36, abs=0.1)
    assert transferred.change_match == 1
    assert transferred.gap_closed == pytest.approx(1 - 0.64 / 1.64, abs=0.1)  # the drift is left
    trials = [
        trial(role, change, effect, apart=drift - effect)
        for role, change in (("copy", effect), ("more", effect - drift))
    ]
    assert best_trial(trials) is trials[1]


def test_an_adapter_without_effect_closes_no_gap_on_any_target() -> None:
    assert measure(1.0, torch.zeros(SHAPE), random(1), random(2)).pooled.gap_closed == 0


def test_a_level_without_a_gap_has_no_gap_closed_and_does_not_affect_the_other_levels() -> None:
    effect, apart = random(1), random(2)
    apart[1] = 1e-5 * random(3)[1]  # what two passes of one model may differ by
    found = measure(1.0, -apart, effect, apart)
    assert [None if one is None else one.gap_closed for one in found.levels] == [1, None, 1]
    assert found.pooled.gap_closed == 1


def test_a_target_that_already_predicts_like_the_source_with_its_adapter_has_no_gap() -> None:
    searched = report(
        trial("transferred", random(2), random(1), STRENGTHS, torch.zeros(SHAPE)),
        trial("copy", random(1), random(1), STRENGTHS, torch.zeros(SHAPE)),
    )
    assert searched.sentence().startswith(
        "nothing to transfer: the target already answers like the source with its LoRA"
    )
    assert searched.chosen() == (searched.transferred, searched.transferred.at_strength_one())
    written = json.loads(searched.dumps())
    assert written["chosen"]["gap_closed"] is None
    assert searched.chosen()[1].pooled.score == 0


def test_the_figures_are_their_formulas_in_float64() -> None:
    target, source, apart = random(1), random(2), random(3)
    found = measure(1.0, target, source, apart)
    for level, agreement in enumerate(found.levels):
        t, s, way = (one[level].double().flatten() for one in (target, source, apart))
        assert agreement is not None
        assert agreement.gap_closed == pytest.approx(1 - float((t + way) @ (t + way)) / float(way @ way), abs=1e-12)
        assert agreement.change_match == pytest.approx(1 - float((t - s) @ (t - s)) / float(s @ s), abs=1e-12)
        assert agreement.cosine == pytest.approx(float(t @ s) / math.sqrt(float(t @ t) * float(s @ s)), abs=1e-12)
        assert agreement.norm_ratio == pytest.approx(math.sqrt(float(t @ t) / float(s @ s)), abs=1e-12)


def test_unrelated_changes_have_no_cosine_and_do_harm() -> None:
    found = same_bases(1.0, random(1), random(2)).pooled
    assert abs(found.cosine) < 0.15
    assert found.change_match < -0.7


def test_a_level_without_an_effect_has_no_figure_and_does_not_affect_the_other_levels() -> None:
    source = random(1)
    source[1] = 0
    found = same_bases(1.0, source, source)
    assert found.levels[1] is None
    assert found.pooled.change_match == found.pooled.gap_closed == 1


def test_an_adapter_without_effect_on_the_source_is_an_error() -> None:
    with pytest.raises(NotMeasurable, match="found no change at any noise level"):
        measure(1.0, random(1), torch.zeros(SHAPE), random(2))


def test_outputs_that_are_not_finite_are_an_error() -> None:
    broken = random(1)
    broken[1, 0, 0] = math.inf
    for differences in ((broken, random(2), random(3)), (random(2), broken, random(3)), (random(2), random(3), broken)):
        with pytest.raises(NotMeasurable, match=r"at strength 0\.5: expected finite differences"):
            measure(0.5, *differences)


def test_noise_velocity_and_flow_come_to_one_unit() -> None:
    sigmas, noise = torch.tensor([9.0, 3.0, 1.0]), random(3)
    state, effect = random(1), random(2)
    scaled = sigmas.reshape(-1, 1, 1, 1, 1)
    found = difference(state - scaled * (noise + effect), state - scaled * noise, sigmas)
    assert torch.allclose(found, -effect, atol=1e-4)


def test_a_search_finds_the_strength_that_undoes_a_scale_and_the_best_adapter() -> None:
    weak = trial("more", random(1) / 0.75, random(1), STRENGTHS)
    far = trial("transferred", random(1) + 0.5 * random(2), random(1), STRENGTHS)
    assert weak.best_attempt().strength == 0.75
    assert weak.best_attempt().pooled.gap_closed == pytest.approx(1)
    assert best_trial((far, weak)) is weak
    assert report(far, weak).chosen() == (weak, weak.best_attempt())


def test_of_equal_scores_the_strength_closest_to_1_is_best() -> None:
    assert trial("transferred", torch.zeros(SHAPE), random(1), STRENGTHS).best_attempt().strength == 1


def test_the_sentence_gives_the_gap_closed_by_the_transferred_lora_and_by_the_plain_copy() -> None:
    source = random(1)
    said = report(trial("transferred", 0.5 * source, source), trial("copy", 0.2 * source, source)).sentence()
    assert said == (
        "the transferred LoRA closes 75% of the gap to the source with its LoRA "
        "(G 0.75, cosine 1.00); the plain copy closes 36%"
    )


def test_the_sentence_names_harm() -> None:
    source = random(1)
    said = report(trial("transferred", -source, source), trial("copy", 2.5 * source, source)).sentence()
    assert said == (
        "leads away: with the transferred LoRA the target is 2.00 times as far from the source with its LoRA as "
        "without (G -3.00, cosine -1.00); the plain copy leads away (1.50 times as far)"
    )


@pytest.mark.parametrize("scale", [-0.001, 0.0, 0.001])
def test_an_adapter_with_almost_no_effect_closes_no_gap_and_is_not_called_harm(scale: float) -> None:
    assert (
        report(trial("transferred", scale * random(1), random(1)))
        .sentence()
        .startswith("the transferred LoRA closes 0%")
    )


def test_after_a_search_the_sentence_names_the_best() -> None:
    source = random(1)
    searched = report(trial("transferred", 2 * source, source, STRENGTHS))
    assert searched.sentence().endswith("; best of the search: transferred at strength 0.5, which closes 100%")


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (0.4, "at strength 1.25, which closes 75%; a larger strength was not tried and may be better"),
        (8.0, "at strength 0.25, which closes 0%; a smaller strength was not tried and may be better"),
        (
            -1.0,
            "at strength 0.25, which leads away (1.25 times as far); a smaller strength was not tried and may be "
            "better",
        ),
    ],
    ids=["weak", "strong", "harm"],
)
def test_the_sentence_warns_if_the_best_strength_is_at_the_edge_of_the_search(scale: float, said: str) -> None:
    searched = report(trial("transferred", scale * random(1), random(1), STRENGTHS))
    assert searched.sentence().endswith(f"best of the search: transferred {said}")


def test_without_a_search_the_transferred_adapter_is_chosen_at_strength_1() -> None:
    source = random(1)
    transferred, copy = trial("transferred", 0.1 * source, source), trial("copy", source, source)
    assert report(transferred, copy).chosen() == (transferred, transferred.at_strength_one())


def test_the_report_is_json_with_every_field() -> None:
    source = random(1)
    source[2] = 0
    written = json.loads(report(trial("transferred", source, source, STRENGTHS)).dumps())
    assert written["schema"] == 1
    assert written["kind"] == "check"
    assert written["chosen"]["strength"] == 1
    assert written["sentence"].startswith("the transferred LoRA closes 100% of")
    [only] = written["trials"]
    assert [one["strength"] for one in only["strengths"]] == list(STRENGTHS)
    whole = {"gap_closed": 1, "change_match": 1, "cosine": pytest.approx(1), "norm_ratio": 1}
    assert only["strengths"][3]["levels"][0] == whole
    assert only["strengths"][3]["levels"][2] is None
