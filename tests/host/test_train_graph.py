"""Train LoRA-X as a user meets it: from a folder of pictures to a LoRA on another base, over HTTP."""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image
from safetensors import safe_open

from dev.client import RunResult
from tests.host.conftest import Host
from tests.host.prompts import node, said
from tests.host.train_prompt import draw, train_prompt, transfer_of

COUNT = 32
STEPS = int(os.environ.get("LORA_TRANSFER_TRAIN_STEPS", "60"))


@pytest.fixture(scope="module")
def trained(host: Host) -> RunResult:
    prompt = {**train_prompt(steps=STEPS), **transfer_of(["train", 0])}
    result = host.client.queue(prompt)
    assert result.status == "success", result.errors
    return result


def test_a_folder_of_pictures_becomes_a_lora_that_draws_like_them_on_both_bases(host: Host, trained: RunResult) -> None:
    report = json.loads(trained.outputs["report"]["text"][0])
    assert report["kind"] == "train"
    assert (report["pictures"], report["held_out"]) == (COUNT, 4)
    assert report["score"]["best"] > 0.4
    assert trained.progress["train"] == (STEPS, STEPS)
    assert len(trained.outputs["pictures"]["images"]) == len(report["scores"])
    assert "pictures that were not trained on" in said(trained, "train")[0]
    transferred = json.loads(trained.outputs["project_report"]["text"][0])
    assert any("trained inside the singular directions" in note for note in transferred["notes"])
    assert (transferred["settings"]["rank_rule"], transferred["settings"]["rank_rule_amount"]) == ("fraction", 0.5)
    for bare, drawn in (("drawn_without", "drawn_on_source"), ("drawn_on_bare_target", "drawn_on_target")):
        assert colour_of(host, trained, drawn) < 0.5 * colour_of(host, trained, bare)


def test_the_file_says_how_it_was_trained_and_comfyuis_own_loader_draws_the_same(
    host: Host, trained: RunResult
) -> None:
    path = Path(trained.outputs["saved"]["text"][0])
    with safe_open(path, "pt") as file:
        entry = json.loads(file.metadata()["lora_transfer"])["trained"]
        keys = set(file.keys())
    assert entry["parameterisation"] == "inside"
    assert entry["rank_rule"] == {"kind": "fraction", "amount": 0.5}
    assert len({key.partition(".lora_")[0].removesuffix(".alpha") for key in keys}) * 3 == len(keys)
    assert any("qkv[" in layer for layer in entry["directions"])  # q, k and v have directions of their own
    assert entry["base"]["name"].startswith("emoji_source")
    assert entry["base"]["fingerprint"]
    prompt = {
        "source": node("UNETLoader", unet_name="emoji_source.safetensors", weight_dtype="default"),
        "loaded": node("LoraLoaderModelOnly", model=["source", 0], lora_name=path.name, strength_model=1.0),
        **draw("drawn", ["loaded", 0]),
    }
    start = len(host.log.read_text())
    result = host.client.queue(prompt)
    assert result.status == "success", result.errors
    assert "lora key not loaded" not in host.log.read_text()[start:]
    difference = picture(host, result, "drawn") - picture(host, trained, "drawn_on_source")
    assert numpy.abs(difference).max() <= 1


def test_a_saved_lora_is_trained_further_from_where_it_was(host: Host, trained: RunResult) -> None:
    before = json.loads(trained.outputs["report"]["text"][0])["score"]
    prompt: dict[str, Any] = train_prompt(steps=0, transferred=["kept", 0])
    prompt = {name: prompt[name] for name in ("source", "vae", "clip", "folder", "dataset", "empty", "train", "report")}
    prompt["kept"] = node("LoraTransferLoadLora", lora_name=Path(trained.outputs["saved"]["text"][0]).name)
    result = host.client.queue(prompt)
    assert result.status == "success", result.errors
    report = json.loads(result.outputs["report"]["text"][0])
    assert report["start"] is not None
    assert report["score"]["before"] == pytest.approx(before["best"], abs=2e-3)


def picture(host: Host, result: RunResult, name: str) -> numpy.ndarray:
    [shown] = result.outputs[name]["images"]
    return numpy.asarray(Image.open(io.BytesIO(host.client.view(shown))).convert("RGB")).astype(int)


def colour_of(host: Host, result: RunResult, name: str) -> float:
    """How colourful a picture is: the mean distance between its strongest and its weakest channel. Line drawings are
    black and white."""
    shown = picture(host, result, name)
    return float((shown.max(-1) - shown.min(-1)).mean())
