"""Workflows for the tests of the page, made from the demo's."""

import copy
import json
from typing import Any

from dev.paths import DEMO_WORKFLOW

SOURCE, LORA, TARGET, SIMILARITY, PROJECT, SAVE = 1, 2, 3, 4, 5, 6  # ids of nodes in the demo's workflow

LOAD_LORA = 31
_DRAWING = {14, 15, 16, 17, 19, LOAD_LORA, 32, 33, 34}

_THRESHOLD = 1  # its place among the values of Project LoRA's widgets


def demo() -> dict[str, Any]:
    """The demo, with two prompts and two steps."""
    workflow = json.loads(DEMO_WORKFLOW.read_text())
    for node in workflow["nodes"]:
        values = node.get("widgets_values")
        if node.get("title") == "Prompts":
            values[0] = "ghost\nneutral face"
        elif node["type"] == "EmptyLatentImage" or node["type"] == "KSampler":
            values[2] = 2
    return workflow


def transfer(threshold: float | None = None) -> dict[str, Any]:
    """The transfer to the target alone, without drawing."""
    workflow = _only({SOURCE, LORA, TARGET, SIMILARITY, PROJECT, SAVE})
    if threshold is not None:
        node_of(workflow, PROJECT)["widgets_values"][_THRESHOLD] = threshold
    return workflow


def draw_with_load_lora(lora_name: str) -> dict[str, Any]:
    """Draws with the target and ComfyUI's own Load LoRA: a workflow that people have."""
    workflow = _only(_DRAWING)
    loader = node_of(workflow, LOAD_LORA)
    loader |= {"type": "LoraLoaderModelOnly", "title": "Load LoRA", "widgets_values": [lora_name, 1.0]}
    loader["inputs"] = [slot for slot in loader["inputs"] if slot["name"] == "model"]
    loader["outputs"] = [{**slot, "name": "MODEL"} for slot in loader["outputs"] if slot["name"] == "model"]
    return workflow


def save_as_loaded(lora_name: str) -> dict[str, Any]:
    """Load LoRA and Save LoRA, connected to each other."""
    workflow = _only({LORA, SAVE})
    node_of(workflow, LORA)["widgets_values"][0] = lora_name
    workflow["links"] = [[1, LORA, 0, SAVE, 0, "LORA_TRANSFER_ADAPTER"]]
    node_of(workflow, LORA)["outputs"][0]["links"] = [1]
    node_of(workflow, SAVE)["inputs"][0]["link"] = 1
    return workflow


def node_of(workflow: dict[str, Any], number: int) -> dict[str, Any]:
    return next(node for node in workflow["nodes"] if node["id"] == number)


def _only(numbers: set[int]) -> dict[str, Any]:
    """The demo's workflow without all other nodes."""
    workflow = copy.deepcopy(demo())
    workflow["nodes"] = [node for node in workflow["nodes"] if node["id"] in numbers]
    workflow["links"] = [link for link in workflow["links"] if {link[1], link[3]} <= numbers]
    workflow["groups"] = []
    kept = {link[0] for link in workflow["links"]}
    for node in workflow["nodes"]:
        for slot in node.get("inputs", []):
            slot["link"] = slot.get("link") if slot.get("link") in kept else None
        for slot in node.get("outputs", []):
            slot["links"] = [link for link in slot.get("links") or [] if link in kept]
    return workflow
