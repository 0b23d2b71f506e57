"""The demo's trained models, its node and its workflows, in a real ComfyUI."""

import io
import json
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.sd
import numpy
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from dev.client import RunResult
from dev.paths import DEMO_MODELS, DEMO_WORKFLOW, REFINE_WORKFLOW
from dev.workflow import to_prompt
from tests.host.conftest import Host
from tests.host.prompts import node

BASES = sorted(path.stem for path in DEMO_MODELS.glob("diffusion_models/*.safetensors"))
LORA = DEMO_MODELS / "loras" / "emoji_line_art.safetensors"


@pytest.mark.parametrize("base", BASES)
def test_comfyui_reads_every_weight_of_a_base(base: str) -> None:
    weights = load_file(DEMO_MODELS / "diffusion_models" / f"{base}.safetensors")
    model = comfy.sd.load_diffusion_model_state_dict(dict(weights)).model.diffusion_model
    found = model.state_dict()
    assert len(found) == len(weights)
    assert all(
        bool((found[key.replace("_norm.scale", "_norm.weight")] == value).all()) for key, value in weights.items()
    )


def test_comfyui_reads_the_lora_to_the_last_key() -> None:
    weights = load_file(DEMO_MODELS / "diffusion_models" / "emoji_source.safetensors")
    model = comfy.sd.load_diffusion_model_state_dict(weights).model
    tensors = load_file(LORA)
    patches = comfy.lora.load_lora(tensors, comfy.lora.model_lora_keys_unet(model, {}))
    assert len(patches) == len(tensors) // 3
    with safe_open(LORA, "pt") as file:
        assert "line art" in file.metadata()["modelspec.description"]


def test_the_demo_draws_each_base_without_and_with_the_lora(host: Host) -> None:
    prompt = _demo(host, "slightly smiling face\nneutral face", steps=4)
    result = host.client.queue(prompt)
    assert result.status == "success", result.errors
    drawn = _drawn(host, prompt, result)
    assert len(drawn) == 8
    assert all(len(images) == 2 for images in drawn.values())
    assert len({image for images in drawn.values() for image in images}) == 16
    words = {
        prompt[key]["_meta"]["title"]: json.loads(shown["text"][0])["verdict"]["word"]
        for key, shown in result.outputs.items()
        if _is(prompt[key], "PreviewAny")
    }
    assert words == {"Report, target": "works", "Report, pruned child": "risky"}


def test_the_demo_refines_on_the_pruned_child_and_from_zeros_on_a_stranger(host: Host) -> None:
    prompt = _demo(host, "ghost", steps=2, workflow=REFINE_WORKFLOW)
    for content in prompt.values():
        if _is(content, "LoraTransferRefine"):
            content["inputs"] |= {"steps": 20, "batch": 8, "samples": 16}
    result = host.client.queue(prompt)
    assert result.status == "success", result.errors
    drawn = _drawn(host, prompt, result)
    assert len({image for images in drawn.values() for image in images}) == 8
    reports = {
        prompt[key]["_meta"]["title"]: json.loads(shown["text"][0])
        for key, shown in result.outputs.items()
        if _is(prompt[key], "PreviewAny")
    }
    pruned, stranger = (reports[f"Refine report, {base}"] for base in ("pruned child", "stranger"))
    assert pruned["score"]["best"] > pruned["score"]["before"] + 0.03
    assert pruned["score"]["before"] > 0.5
    assert stranger["score"]["before"] == pytest.approx(0, abs=1e-6)
    assert stranger["score"]["best"] > 0.5


def test_no_prompt_that_is_drawn_was_trained_on(host: Host) -> None:
    prompt = to_prompt(json.loads(REFINE_WORKFLOW.read_text()), host.client.object_info())
    names = {content["_meta"]["title"]: content["inputs"].get("names", "").splitlines() for content in prompt.values()}
    assert len(names["Prompts"]) == 8
    assert len(names["Prompts for the teacher"]) == 24
    assert not set(names["Prompts"]) & set(names["Prompts for the teacher"])


def test_a_line_of_prompts_is_an_image_and_does_not_depend_on_the_others(host: Host) -> None:
    both, alone = (_source_alone(_demo(host, names, steps=2)) for names in ("ghost\ngrinning cat", "ghost"))
    first, second = (_drawn(host, prompt, host.client.queue(prompt)) for prompt in (both, alone))
    ghost, cat, ghost_alone = map(_pixels, [*first["Source: no LoRA"], *second["Source: no LoRA"]])
    assert numpy.abs(ghost - ghost_alone).max() <= 1
    assert numpy.abs(ghost - cat).max() > 50


def test_an_unknown_prompt_is_refused_in_a_sentence(host: Host) -> None:
    result = host.client.queue(
        {
            "prompts": node("LoraTransferDemoEmojiPrompts", names="ghost\na house by a lake"),
            "shown": node("PreviewAny", source=["prompts", 0]),
        }
    )
    assert result.status == "error"
    assert result.errors["prompts"].startswith(
        "Emoji Prompts does not know 'a house by a lake'. Use some of its 162 names: "
    )


def _demo(host: Host, names: str, steps: int, workflow: Path = DEMO_WORKFLOW) -> dict[str, Any]:
    prompt = to_prompt(json.loads(workflow.read_text()), host.client.object_info())
    for content in prompt.values():
        inputs = content["inputs"]
        if content["_meta"]["title"] == "Prompts":
            inputs["names"] = names
        if _is(content, "EmptyLatentImage"):
            inputs["batch_size"] = len(names.splitlines())
        if _is(content, "KSampler"):
            inputs["steps"] = steps
    return prompt


def _source_alone(prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt less what it shows of anything but the source without its LoRA."""
    shown = ("SaveImage", "PreviewAny", "LoraTransferSave", "LoraTransferSimilarity")
    return {
        key: content
        for key, content in prompt.items()
        if content["class_type"] not in shown or content["_meta"]["title"] == "Source: no LoRA"
    }


def _drawn(host: Host, prompt: dict[str, Any], result: RunResult) -> dict[str, list[bytes]]:
    return {
        prompt[key]["_meta"]["title"]: [host.client.view(image) for image in shown["images"]]
        for key, shown in result.outputs.items()
        if _is(prompt[key], "SaveImage")
    }


def _pixels(image: bytes) -> NDArray[numpy.int16]:
    return numpy.asarray(Image.open(io.BytesIO(image)).convert("RGB")).astype(numpy.int16)


def _is(content: dict[str, Any], kind: str) -> bool:
    return content["class_type"] == kind
