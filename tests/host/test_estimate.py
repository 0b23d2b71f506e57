"""The outlook on refining in the real host: on published sizes, on this device, in the report."""

import json

import pytest

from lora_transfer.core.refine.outlook import measure_size
from lora_transfer.core.refine.speeds import PROCESSOR
from lora_transfer.nodes.host.refine.estimate import estimate_outlook, measure_device
from tests.core.refine.test_outlook import FLUX, SDXL
from tests.core.test_verdict import GOOD, judge
from tests.host.conftest import Host
from tests.host.prompts import transfer_prompt
from tests.host.test_families import base_of


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
    found = estimate_outlook(judge(GOOD), base_of(family))
    assert found is not None
    assert found.cost.pixels == pixels
    assert estimate_outlook(None, base_of(family)) is None


def test_the_report_of_a_comparison_has_the_outlook(host: Host) -> None:
    result = host.client.queue(transfer_prompt(measure="weight_cosine", method="copy", prefix="loras/outlook"))
    assert result.status == "success", result.errors
    report = json.loads(result.outputs["similarity_report"]["text"][0])
    assert report["schema"] == 1
    assert report["refine"]["seconds"] > 0
    assert "on this processor" in report["refine"]["sentence"]
    assert json.loads(result.outputs["report"]["text"][0])["refine"] is None
