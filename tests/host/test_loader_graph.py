"""Load LoRA from Another Base in a real ComfyUI process, on the trained emoji models."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dev.client import RunResult
from dev.paths import DEMO_MODELS
from lora_transfer.core.plan import TransferSettings
from tests.host.conftest import Host
from tests.host.prompts import node, transfer_prompt

LORA, SECOND = "emoji_line_art.safetensors", "emoji_second.safetensors"
SOURCE = "diffusion_models/emoji_source.safetensors"


@pytest.fixture(scope="module")
def emoji(host: Host) -> Host:
    """The session's server, with a second LoRA of the emoji source."""
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(DEMO_MODELS / "loras" / LORA)
    second = {
        key: value if key.endswith(".alpha") else value[torch.randperm(len(value), generator=generator)]
        for key, value in tensors.items()
    }
    save_file(second, host.base / "models" / "loras" / SECOND)
    return host


def scene(target: str) -> dict[str, Any]:
    return {
        "model": node("UNETLoader", unet_name=f"{target}.safetensors", weight_dtype="default"),
        "vae": node("VAELoader", vae_name="emoji_vae.safetensors"),
        "prompts": node("LoraTransferDemoEmojiPrompts", names="ghost"),
        "empty": node("LoraTransferDemoEmojiPrompts", names=""),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
    }


def picture(name: str, model: list[Any]) -> dict[str, Any]:
    """An image by the model, saved by the node `name`."""
    return {
        f"{name} sampler": node(
            "KSampler",
            model=model,
            positive=["prompts", 0],
            negative=["empty", 0],
            latent_image=["latent", 0],
            seed=7,
            steps=2,
            cfg=4.0,
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        ),
        f"{name} decoded": node("VAEDecode", samples=[f"{name} sampler", 0], vae=["vae", 0]),
        name: node("SaveImage", images=[f"{name} decoded", 0], filename_prefix=f"test/{name}"),
    }


def loader(lora: str, model: str = "model", strength: float = 1.0) -> dict[str, Any]:
    return node(
        "LoraTransferLoader",
        model=[model, 0],
        lora_name=lora,
        trained_on=SOURCE,
        strength_model=strength,
        strength_clip=1.0,
    )


def by_hand(target: str, lora: str, name: str, model: str = "model", strength: float = 1.0) -> dict[str, Any]:
    """The nodes that the loader stands for. The last is called `name`."""
    threshold = TransferSettings.threshold
    wired = transfer_prompt(
        source=SOURCE,
        target=f"diffusion_models/{target}.safetensors",
        lora=lora,
        measure="weight_cosine",
        threshold=threshold,
    )
    apply = node(
        "LoraTransferApply", model=[model, 0], adapter=["project", 0], strength_model=strength, strength_clip=1.0
    )
    for content in (*wired.values(), apply):
        for socket, value in content["inputs"].items():
            if isinstance(value, list) and value[0] in wired:
                content["inputs"][socket] = [f"{name} {value[0]}", value[1]]
    chain = ("source", "target", "lora", "similarity", "project")
    return {**{f"{name} {step}": wired[step] for step in chain}, name: apply}


def images(host: Host, prompt: dict[str, Any]) -> dict[str, bytes]:
    result = run(host, prompt)
    saved = [key for key, content in prompt.items() if content["class_type"] == "SaveImage"]
    return {key: host.client.view(result.outputs[key]["images"][0]) for key in saved}


def run(host: Host, prompt: dict[str, Any]) -> RunResult:
    result = host.client.queue(prompt)
    assert result.status == "success", result.errors
    return result


def said(result: RunResult, name: str) -> list[str]:
    return [line["text"] for line in result.outputs[name]["lora_transfer"][0]["lines"]]


@pytest.mark.parametrize("target", ["emoji_target", "emoji_pruned"])
def test_the_loader_draws_bit_by_bit_what_the_nodes_draw_that_it_stands_for(emoji: Host, target: str) -> None:
    prompt = {
        **scene(target),
        "loader": loader(LORA),
        "second loader": loader(SECOND, "loader", 0.6),
        **by_hand(target, LORA, "hand"),
        **by_hand(target, SECOND, "second hand", "hand", 0.6),
    }
    for name in ("model", "loader", "hand", "second loader", "second hand"):
        prompt |= picture(f"of {name}", [name, 0])
    drawn = images(emoji, prompt)
    assert drawn["of loader"] == drawn["of hand"]
    assert drawn["of second loader"] == drawn["of second hand"]
    assert len(set(drawn.values())) == 3


def test_a_prompt_that_runs_again_from_scratch_finds_the_kept_result_and_draws_the_same(emoji: Host) -> None:
    prompt = {**scene("emoji_target"), "loader": loader(LORA, strength=0.9), **picture("drawn", ["loader", 0])}
    first = images(emoji, prompt)
    emoji.client.post("/free", {"unload_models": True, "free_memory": True})  # ComfyUI forgets all outputs
    result = run(emoji, prompt)
    assert any("kept from an earlier run" in text for text in said(result, "loader"))
    assert emoji.client.view(result.outputs["drawn"]["images"][0]) == first["drawn"]
    assert "loader" not in result.progress


def test_a_refused_pair_ends_in_a_sentence_that_names_refine(emoji: Host) -> None:
    prompt = {**scene("emoji_stranger"), "loader": loader(LORA), **picture("drawn", ["loader", 0])}
    result = emoji.client.queue(prompt)
    assert result.status == "error"
    assert "Refine LoRA" in result.errors["loader"]


def test_a_missing_source_ends_in_a_sentence_with_the_folders(emoji: Host) -> None:
    prompt = {**scene("emoji_target"), "loader": loader(LORA), **picture("drawn", ["loader", 0])}
    prompt["loader"]["inputs"]["trained_on"] = "checkpoints/gone.safetensors"
    result = emoji.client.queue(prompt)
    assert result.status == "error"
    assert "Base checkpoints/gone.safetensors: not found in" in result.errors["loader"]
