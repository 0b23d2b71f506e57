"""The advice on refining and the estimate of its cost."""

import dataclasses
import json

import pytest

from lora_transfer.core.layers import Layer, Rows, WeightRef
from lora_transfer.core.pair_kinds import KINDS
from lora_transfer.core.refine.loop import RefineSettings
from lora_transfer.core.refine.outlook import Device, ModelSize, Outlook, advise, estimate_cost, measure_size
from lora_transfer.core.verdict import Word
from tests.core.bases import CountingBase, related_bases

SDXL = ModelSize(parameters=2_565_880_320, sides=3_088_296, bytes=5_131_760_640, unet=True)
FLUX = ModelSize(parameters=11_898_322_944, sides=4_837_760, bytes=23_796_645_888, unet=False)
CARD = Device("this card", speed=75e12, memory=24e9)


def of(name: str, word: Word = "works") -> str:
    return advise(KINDS[name], word)


def test_the_advice_has_the_figures_of_this_kind_of_pair_and_no_others() -> None:
    assert of("near").startswith(
        "is worth it for a subtle style, and adds little to a strong one: on a light fine-tune"
    )
    assert "raised 92% to 98% of a trained LoRA's gain for a strong style, 71% to 96% for a subtle one" in of("near")
    assert "raised 85% to 95%" in of("drifted")
    assert "74% to 93%" in of("far", "risky")
    assert "79% to 97%" in of("pruned", "risky")
    assert of("far").startswith("is worth it: on")
    assert of("turbo").startswith("adds little here")
    assert "recovered 91% of a trained LoRA's gain for a strong style, 85% for a subtle one" in of("other seed")
    assert "88%" in of("UNet to transformer", "refuse")
    assert len({of(name) for name in KINDS}) == len(KINDS)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if not kind.measured])
def test_a_pair_that_was_not_measured_is_told_no_figures_and_why(name: str) -> None:
    for word in ("risky", "refuse"):
        text = of(name, word)
        assert "no figures" in text
        assert KINDS[name].target in text
        assert "%" not in text
        assert ("from zeros" in text) == (word == "refuse")


@pytest.mark.parametrize(
    ("size", "counted", "together"), [(SDXL, 6.8e12, 6.8e9), (FLUX, 69.8e12, 27.2e9)], ids=["SDXL", "Flux dev"]
)
def test_the_estimate_agrees_with_the_counted_models(size: ModelSize, counted: float, together: float) -> None:
    """counted, together: operations of a forward pass and bytes of benchmarks/refine/memory.py, depth 2."""
    once = estimate_cost(size, CARD, 1024, RefineSettings(steps=0, checks=0), samplings=64)
    assert once.seconds == pytest.approx((512 + 2 * 64) * counted / 75e12, rel=0.05)
    assert once.bytes == pytest.approx(1.1 * together, rel=0.05)


def test_time_goes_with_steps_batch_and_area_and_memory_with_area_alone() -> None:
    def cost(pixels: int = 1024, **settings: int) -> tuple[float, float]:
        found = estimate_cost(SDXL, CARD, pixels, RefineSettings(**settings))  # pyright: ignore[reportArgumentType]
        return found.seconds, found.bytes

    seconds, size = cost()
    without_steps, _ = cost(steps=0)
    assert cost(steps=160) == (pytest.approx(2 * seconds - without_steps), size)
    assert cost(batch=8) == (pytest.approx((seconds + without_steps) / 2), size)
    smaller = cost(512)
    assert smaller[0] == pytest.approx(seconds / 4, rel=0.1)  # text has as many tokens at every size
    assert cost(64)[0] > seconds / 64
    assert SDXL.bytes < smaller[1] < size


def test_the_sentence_says_what_the_estimate_is_for() -> None:
    found = Outlook(of("drifted"), estimate_cost(SDXL, CARD, 1024))
    assert found.sentence() == (
        "Refine LoRA is worth it for a subtle style, and adds little to a strong one: on a fine-tune that has drifted "
        "it raised 85% to 95% of a trained LoRA's gain for a strong style, 51% to 83% for a subtle one; about 7 "
        "minutes and at least 7.6 GB on this card (estimated, for 80 steps at 1024 px)"
    )
    written = json.loads(json.dumps(found.as_json()))
    assert written["sentence"] == found.sentence()
    assert written["steps"] == 80
    assert written["basis"] == "estimated"


def test_the_sentence_names_the_device_on_which_the_speed_was_measured() -> None:
    measured = Outlook(
        of("near"), estimate_cost(SDXL, dataclasses.replace(CARD, measured_on="an H100 with SDXL"), 1024)
    )
    assert measured.sentence().endswith("(by the speed measured on an H100 with SDXL, for 80 steps at 1024 px)")
    assert "estimated" not in measured.sentence()
    assert measured.as_json()["basis"] == "measured on an H100 with SDXL"


def test_the_sentence_warns_if_the_card_is_too_small() -> None:
    small = estimate_cost(FLUX, dataclasses.replace(CARD, memory=12e9), 1024)
    assert "30 GB on this card, which has 12 GB: use weights in fp8, or smaller pictures (estimated" in small.sentence()


@pytest.mark.parametrize(
    ("speed", "said"), [(5e15, "7 seconds"), (1e12, "9 hours"), (25e9, "15 days"), (1e13, "56 minutes")]
)
def test_times_have_at_most_two_digits(speed: float, said: str) -> None:
    assert f"about {said} and" in estimate_cost(SDXL, dataclasses.replace(CARD, speed=speed), 1024).sentence()


def test_a_size_comes_from_shapes_without_slices_and_text_encoders() -> None:
    base, _ = related_bases()
    found = measure_size(base)
    assert found.parameters == 32 * 32 + 48 * 20 + 16 * 6 * 9 + 8 * 12
    assert found.sides == 64 + 68 + (16 + 54) + 20
    assert found.bytes == 2 * found.parameters
    assert found.unet
    assert not base.reads
    layers = dict(base.layers)
    del layers["a.1.conv"]
    fused = WeightRef("a.0.q", (8, 32), "F32", rows=Rows(0, 8))
    layers["a.0.q[0:8]"] = Layer("a.0.q[0:8]", "q", "a.0", fused)
    layers["te"] = Layer("te", "q", "te", WeightRef("te", (99, 99), "F32"), text_encoder=True)
    layers["b.gone"] = Layer("b.gone", "gone", "b", WeightRef("b.gone", (8, 12), "F8_E4M3"))
    transformer = CountingBase("transformer", {})
    transformer.layers = layers
    found = measure_size(transformer)
    assert found.parameters == 32 * 32 + 48 * 20 + 8 * 12
    assert found.bytes == 2 * found.parameters - 8 * 12
    assert not found.unet
