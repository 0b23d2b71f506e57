"""The outlook on refining in the real host: on published sizes, on this device, in the report."""

import json
from dataclasses import replace

import pytest

from dev.paths import DEMO_MODELS
from lora_transfer.core.pair_kinds import KINDS
from lora_transfer.core.refine.outlook import estimate_cost, measure_size
from lora_transfer.core.refine.speeds import PROCESSOR
from lora_transfer.core.similarity import Comparison
from lora_transfer.core.subspace import RankRule
from lora_transfer.core.verdict import PairFigures
from lora_transfer.nodes.host.base.from_file import base_from_file
from lora_transfer.nodes.host.pair import kind_of_comparison
from lora_transfer.nodes.host.refine.estimate import estimate_outlook, measure_device
from tests.core.refine.test_outlook import FLUX, SDXL
from tests.core.test_verdict import GOOD, judge
from tests.host.conftest import Host
from tests.host.prompts import transfer_prompt
from tests.host.test_families import base_of

HALF = RankRule("fraction", 0.5)


def test_published_models_have_the_sizes_that_the_estimate_was_checked_on() -> None:
    assert measure_size(base_of("SDXL")) == SDXL
    assert measure_size(base_of("Flux dev")) == FLUX
    assert measure_size(base_of("SDXL", text_encoder=True)) == SDXL


def test_a_device_has_a_speed_and_a_memory() -> None:
    found = measure_device()
    assert found.name == "this processor"
    assert 1e9 < found.speed < 1e14
    assert found.memory > 1e9
    assert found.basis() == f"measured on {PROCESSOR.measured_on}"


@pytest.mark.parametrize(("family", "pixels"), [("SD15", 512), ("SD21", 768), ("SDXL", 1024), ("SD3 medium", 1024)])
def test_an_estimate_is_for_pictures_as_the_family_paints_them(family: str, pixels: int) -> None:
    base = base_of(family)
    found = estimate_outlook(judge(GOOD), KINDS["drifted"], base)
    assert found is not None
    assert found.cost.pixels == pixels
    assert estimate_outlook(None, None, base) is None


def test_a_small_model_is_not_told_the_time_of_large_pictures() -> None:
    emoji = base_from_file(DEMO_MODELS / "diffusion_models" / "emoji_pruned.safetensors", "emoji_pruned")
    found = estimate_outlook(judge(GOOD), KINDS["pruned"], emoji)
    assert found is not None
    assert found.cost.pixels == 64  # the demo's own size
    at_1024 = estimate_cost(measure_size(emoji), found.cost.device, 1024)
    assert at_1024.seconds > 50 * found.cost.seconds
    # One core took 14 s of work for such a run, at 5e10 operations per second.
    same_core = estimate_cost(measure_size(emoji), replace(found.cost.device, speed=5e10), 64)
    assert 14 / 3 < same_core.seconds < 14 * 3


@pytest.mark.parametrize(
    ("source", "target", "name"),
    [
        ("SD15", "Flux dev", "other latents"),
        ("SDXL", "SD15", "other latents"),
        ("SD15", "SD15", "other seed"),
        ("SD15", "SD21", "other width"),
    ],
)
def test_bases_that_have_nothing_in_common_are_told_figures_of_their_own_kind_or_none(
    source: str, target: str, name: str
) -> None:
    stranger = judge(PairFigures(sampled=0, matched=0.0))
    found = kind_of_comparison(Comparison(*map(base_of, (source, target)), {}, {}, HALF, "subspace", verdict=stranger))
    assert found == KINDS[name]


def test_the_report_of_a_comparison_has_the_outlook(host: Host) -> None:
    result = host.client.queue(transfer_prompt(measure="weight_cosine", method="copy", prefix="loras/outlook"))
    assert result.status == "success", result.errors
    report = json.loads(result.outputs["similarity_report"]["text"][0])
    assert report["schema"] == 1
    assert report["refine"]["seconds"] > 0
    assert "on this processor" in report["refine"]["sentence"]
    assert json.loads(result.outputs["report"]["text"][0])["refine"] is None
