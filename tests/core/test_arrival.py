"""The score of a check, on changes whose figures are known."""

import json
import math

import pytest
import torch
from torch import Tensor

from lora_transfer.core.arrival import STRENGTHS, Trial, best_of, change, measure
from lora_transfer.core.arrival_report import ArrivalReport
from lora_transfer.core.errors import NotMeasurable
from lora_transfer.core.report import Identity

SHAPE = 3, 2, 4, 5, 5  # levels, seeds, latent


def random(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def trial(role: str, on_target: Tensor, on_source: Tensor, strengths: tuple[float, ...] = (1.0,)) -> Trial:
    """An adapter whose effect is linear in its strength."""
    arrivals = tuple(measure(strength, strength * on_target, on_source) for strength in strengths)
    label = "the plain copy" if role == "copy" else role
    return Trial(role, label, f"{role}.safetensors", "sha", "all keys applied", arrivals)  # pyright: ignore[reportArgumentType]


def report(*trials: Trial) -> ArrivalReport:
    source, target, adapter = (Identity(name, "sha") for name in ("source", "target", "adapter"))
    return ArrivalReport(source, target, adapter, {"seeds": 2}, (9.0, 3.0, 1.0), trials)


def test_the_same_change_arrives_whole() -> None:
    found = measure(1.0, random(1), random(1))
    for agreement in (found.pooled, *found.levels):
        assert agreement is not None
        assert agreement.arrived == 1
        assert agreement.cosine == pytest.approx(1)
        assert agreement.norm_ratio == 1


def test_no_change_is_zero_and_the_opposite_change_is_minus_three() -> None:
    nothing, opposite = (measure(1.0, factor * random(1), random(1)).pooled for factor in (0.0, -1.0))
    assert (nothing.arrived, nothing.cosine, nothing.norm_ratio) == (0, 0, 0)
    assert opposite.arrived == pytest.approx(-3)
    assert opposite.cosine == pytest.approx(-1)


def test_at_half_the_strength_three_quarters_arrive() -> None:
    found = measure(0.5, random(1) / 2, random(1)).pooled
    assert found.arrived == pytest.approx(0.75)
    assert found.norm_ratio == pytest.approx(0.5)


def test_the_figures_are_their_formulas_in_float64() -> None:
    target, source = random(1), random(2)
    found = measure(1.0, target, source)
    for level, agreement in enumerate(found.levels):
        t, s = target[level].double().flatten(), source[level].double().flatten()
        assert agreement is not None
        assert agreement.arrived == pytest.approx(1 - float((t - s) @ (t - s)) / float(s @ s), abs=1e-12)
        assert agreement.cosine == pytest.approx(float(t @ s) / math.sqrt(float(t @ t) * float(s @ s)), abs=1e-12)
        assert agreement.norm_ratio == pytest.approx(math.sqrt(float(t @ t) / float(s @ s)), abs=1e-12)


def test_strangers_have_no_cosine_and_do_harm() -> None:
    found = measure(1.0, random(1), random(2)).pooled
    assert abs(found.cosine) < 0.15
    assert found.arrived < -0.7


def test_a_level_without_an_effect_has_no_figure_and_does_not_disturb_the_others() -> None:
    source = random(1)
    source[1] = 0
    found = measure(1.0, source, source)
    assert found.levels[1] is None
    assert found.pooled.arrived == 1


def test_an_adapter_that_changes_nothing_on_the_source_is_told_in_a_sentence() -> None:
    with pytest.raises(NotMeasurable, match="found no change at any noise level"):
        measure(1.0, random(1), torch.zeros(SHAPE))


def test_noise_velocity_and_flow_come_to_one_unit() -> None:
    sigmas, noise = torch.tensor([9.0, 3.0, 1.0]), random(3)
    state, effect = random(1), random(2)
    scaled = sigmas.reshape(-1, 1, 1, 1, 1)
    found = change(state - scaled * (noise + effect), state - scaled * noise, sigmas)
    assert torch.allclose(found, -effect, atol=1e-4)


def test_a_search_finds_the_strength_that_undoes_a_scale_and_the_best_adapter() -> None:
    weak = trial("more", random(1) / 0.75, random(1), STRENGTHS)
    far = trial("projected", random(1) + 0.5 * random(2), random(1), STRENGTHS)
    assert weak.best().strength == 0.75
    assert weak.best().pooled.arrived == pytest.approx(1)
    assert best_of((far, weak)) is weak
    assert report(far, weak).chosen() == (weak, weak.best())


def test_of_equal_strengths_the_one_nearest_to_1_is_taken() -> None:
    assert trial("projected", torch.zeros(SHAPE), random(1), STRENGTHS).best().strength == 1


def test_the_sentence_says_what_arrived_and_what_the_plain_copy_brings() -> None:
    source = random(1)
    said = report(trial("projected", 0.5 * source, source), trial("copy", 0.2 * source, source)).sentence()
    assert said == "75% of the LoRA's effect arrived (cosine 1.00, 0.50 times as strong); the plain copy brings 36%"


def test_the_sentence_calls_harm_by_its_name() -> None:
    source = random(1)
    said = report(trial("projected", -source, source), trial("copy", 3 * source, source)).sentence()
    assert said.startswith("harms: ")
    assert said.endswith("the plain copy harms (G -3.00)")


def test_after_a_search_the_sentence_names_the_best() -> None:
    source = random(1)
    searched = report(trial("projected", 2 * source, source, STRENGTHS))
    assert searched.sentence().endswith("best of the search: projected at strength 0.5, of which 100% arrives")
    harmful = report(trial("projected", -source, source, STRENGTHS))
    assert harmful.sentence().endswith("best of the search: projected at strength 0.25, which harms too")


def test_without_a_search_the_projected_adapter_is_chosen_as_it_is() -> None:
    source = random(1)
    projected, copy = trial("projected", 0.1 * source, source), trial("copy", source, source)
    assert report(projected, copy).chosen() == (projected, projected.as_it_is())


def test_the_report_is_json_with_every_field() -> None:
    source = random(1)
    source[2] = 0
    told = json.loads(report(trial("projected", source, source, STRENGTHS)).dumps())
    assert told["schema"] == 1
    assert told["kind"] == "check"
    assert told["chosen"]["strength"] == 1
    assert told["sentence"].startswith("100% of")
    [only] = told["trials"]
    assert [one["strength"] for one in only["strengths"]] == list(STRENGTHS)
    assert only["strengths"][3]["levels"][0] == {"arrived": 1, "cosine": pytest.approx(1), "norm_ratio": 1}
    assert only["strengths"][3]["levels"][2] is None
