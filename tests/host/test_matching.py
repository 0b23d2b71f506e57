"""Bases of another depth, another width, another seed and another family, in a real ComfyUI."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dev.client import RunResult
from tests.host.conftest import Host, SmallPair
from tests.host.prompts import transfer_prompt
from tests.host.small_families import write_small, write_with_blocks
from tests.host.test_small_families import lora_for, write_unet

WAN = "Wan 2.1 1.3B"


@dataclass(frozen=True)
class Parent:
    """A small Wan of five blocks, and a LoRA on all of it."""

    model: Path
    lora: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def parent(host: Host) -> Parent:
    folder = host.base / "models"
    model = write_small(folder / "diffusion_models" / "parent.safetensors", WAN, 1, torch.float32, num_layers=5)
    lora = lora_for(folder / "loras" / "parent.safetensors", model, "comfy")
    return Parent(model, load_file(lora))


def transferred(host: Host, target: str, **settings: Any) -> RunResult:
    prompt = transfer_prompt(
        source="diffusion_models/parent.safetensors",
        target=f"diffusion_models/{target}",
        lora="parent.safetensors",
        prefix="loras/matched",
        **settings,
    )
    return host.client.queue(prompt)


def report_of(result: RunResult, which: str = "report") -> dict[str, Any]:
    assert result.status == "success", result.errors
    return json.loads(result.outputs[which]["text"][0])


def delta(tensors: dict[str, torch.Tensor], layer: str) -> torch.Tensor:
    up, down = (tensors[f"diffusion_model.{layer}.lora_{end}.weight"].double() for end in ("up", "down"))
    scale = float(tensors[f"diffusion_model.{layer}.alpha"]) / len(down)
    return up.flatten(1) @ down.flatten(1) * scale


@pytest.mark.parametrize("method", ["copy", "restore"])
def test_a_pruned_child_gets_its_parents_deltas_by_blocks_and_others_by_names(
    host: Host, parent: Parent, method: str
) -> None:
    kept = [0, 2, 3]
    write_with_blocks(parent.model.with_name("pruned.safetensors"), parent.model, kept)
    for match_by, right in (("blocks", True), ("names", False)):
        result = transferred(host, "pruned.safetensors", match_by=match_by, method=method, force=True)
        saved = load_file(result.outputs["save"]["text"][0])
        for place, index in enumerate(kept):
            expected = delta(parent.lora, f"blocks.{index}.self_attn.q")
            found = delta(saved, f"blocks.{place}.self_attn.q")
            close = bool((found - expected).norm() < 1e-5 * expected.norm())
            assert close == (right or place == index), (match_by, place)
    report = report_of(transferred(host, "pruned.safetensors", method=method))
    fed = {one["target"]: one["source"] for one in report["block_map"]["blocks"]}
    assert [fed[f"blocks.{place}"] for place in range(3)] == [f"blocks.{index}" for index in kept]
    assert report["verdict"]["word"] == "risky"
    assert 0.3 < report["lost"] < 0.5
    assert any("blocks.1 feeds no block of the target" in one["reason"] for one in report["skipped"])


def test_a_grown_child_gets_a_delta_for_every_copy_of_a_block(host: Host, parent: Parent) -> None:
    write_with_blocks(parent.model.with_name("grown.safetensors"), parent.model, [0, 1, 1, 2, 3, 3, 4])
    result = transferred(host, "grown.safetensors", method="copy")
    report = report_of(result)
    saved = load_file(result.outputs["save"]["text"][0])
    for place, index in enumerate([0, 1, 1, 2, 3, 3, 4]):
        found, expected = delta(saved, f"blocks.{place}.ffn.0"), delta(parent.lora, f"blocks.{index}.ffn.0")
        assert torch.allclose(found, expected, atol=1e-6)
    assert report["lost"] == 0
    assert report["counts"]["keys"] == len(parent.lora)


def test_a_map_of_ones_own_goes_before_the_weights(host: Host, parent: Parent) -> None:
    write_with_blocks(parent.model.with_name("pruned.safetensors"), parent.model, [0, 2, 3])
    own = json.dumps({"blocks.0": "blocks.4", "blocks.1": None})
    report = report_of(transferred(host, "pruned.safetensors", block_map=own, method="copy", threshold=0.0, force=True))
    assert {layer["source"].split(".")[1] for layer in report["layers"]} == {"4"}
    refused = transferred(host, "pruned.safetensors", block_map=json.dumps({"blocks.0": "blocks.9"}))
    assert "expected a block of the source base, found 'blocks.9'" in refused.errors["similarity"]


def test_a_stranger_is_refused_with_the_figures_and_forced_it_goes_on(host: Host, parent: Parent) -> None:
    write_small(parent.model.with_name("stranger.safetensors"), WAN, 77, torch.float32, num_layers=5)
    settings = {"match_by": "names", "threshold": 0.0, "method": "copy"}
    refused = transferred(host, "stranger.safetensors", **settings)
    assert refused.status == "error"
    assert "expected related bases, found that" in refused.errors["project"]
    assert "weight cosine" in refused.errors["project"]
    forced = report_of(transferred(host, "stranger.safetensors", force=True, **settings))
    assert forced["verdict"]["word"] == "refuse"
    assert forced["counts"]["copied"] + forced["counts"]["transferred"] == len(forced["layers"]) > 0


def test_a_gain_makes_every_change_larger(host: Host, parent: Parent) -> None:
    write_with_blocks(parent.model.with_name("pruned.safetensors"), parent.model, [0, 2, 3])
    saved = load_file(transferred(host, "pruned.safetensors", method="copy", gain=1.3).outputs["save"]["text"][0])
    expected = 1.3 * delta(parent.lora, "blocks.2.self_attn.q")
    assert torch.allclose(delta(saved, "blocks.1.self_attn.q"), expected, rtol=1e-5, atol=1e-7)


def test_a_wider_base_is_refused_in_words(host: Host, parent: Parent) -> None:
    wider = parent.model.with_name("wider.safetensors")
    write_small(wider, WAN, 5, torch.float32, dim=256, num_heads=2, num_layers=5)
    result = transferred(host, "wider.safetensors")
    assert result.status == "error"
    assert "expected related bases" in result.errors["project"]
    report = transferred(host, "wider.safetensors", match_by="names", force=True)
    assert "expected layers to transfer, found none" in report.errors["project"]
    assert "the target is wider" in report.errors["project"]


def test_a_base_of_another_family_is_refused_in_words(host: Host, parent: Parent, pair: SmallPair) -> None:
    write_unet(parent.model.with_name("unet.safetensors"), pair.source, torch.float16)
    result = transferred(host, "unet.safetensors")
    assert result.status == "error"
    assert "no layer that the LoRA changes has a partner in the target" in result.errors["project"]
