"""The workflows that the pack ships, as files: named by what they do, laid out for people, known to the registry."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dev.paths import BLUEPRINTS, DEMO_WORKFLOW, REFINE_WORKFLOW, TEMPLATES
from dev.templates.graph import GROWN, NOTE, TITLE_HEIGHT, pyproject_value

FILES = sorted(TEMPLATES.glob("*.json"))
NAMES = {
    "Use an SDXL LoRA on a fine-tune",
    "Use an SDXL LoRA on a pruned model (SSD-1B)",
    "Use an SDXL LoRA on a quantised model",
    "Check a transfer and find the best strength",
    "Refine a LoRA on a turbo model",
    "Save for other programs",
    "Train a LoRA-X and use it on two relatives",
}
MOST_CHOICES = 3
THUMBNAIL = (640, 640)  # pixels: the template browser shows squares

every_template = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
Box = tuple[float, float, float, float]


def test_the_templates_are_named_by_what_they_do() -> None:
    assert {path.stem for path in FILES} == NAMES


@every_template
def test_a_template_has_a_picture_for_the_browser(path: Path) -> None:
    with Image.open(path.with_suffix(".jpg")) as picture:
        assert picture.size == THUMBNAIL
    assert path.with_suffix(".jpg").stat().st_size < 150_000


@pytest.mark.parametrize("path", [*FILES, *BLUEPRINTS.glob("*.json")], ids=lambda path: path.stem)
def test_every_node_names_its_pack_and_version_so_that_a_manager_can_install_it(path: Path) -> None:
    ours = {"cnr_id": pyproject_value("name"), "ver": pyproject_value("version")}
    for node in _all_nodes(json.loads(path.read_text(encoding="utf-8"))):
        entry = {key: node["properties"].get(key) for key in ours}
        if node["type"].startswith("LoraTransfer"):
            assert entry == ours, node["type"]
        else:
            assert entry["cnr_id"] == "comfy-core", node["type"]
            assert entry["ver"]


@pytest.mark.parametrize("path", [*FILES, DEMO_WORKFLOW, REFINE_WORKFLOW], ids=lambda path: path.stem)
def test_no_two_nodes_and_no_two_groups_overlap(path: Path) -> None:
    workflow = json.loads(path.read_text(encoding="utf-8"))
    nodes = {f"{node['type']} {node['id']}": _box_of_node(node) for node in workflow["nodes"]}
    groups = {group["title"]: tuple(group["bounding"]) for group in workflow["groups"]}
    assert [
        pair for boxes in (nodes, groups) for pair in combinations(boxes, 2) if _overlap(*map(boxes.get, pair))
    ] == []


@every_template
def test_the_note_is_at_the_top_left_and_asks_for_at_most_three_choices(path: Path) -> None:
    workflow = json.loads(path.read_text(encoding="utf-8"))
    note = next(node for node in workflow["nodes"] if node["type"] == NOTE)
    assert all(note["pos"][side] <= node["pos"][side] for node in workflow["nodes"] for side in (0, 1))
    [text] = note["widgets_values"]
    assert text.startswith(f"## {path.stem.removesuffix(' (SSD-1B)')}\n")
    assert 1 <= len(re.findall(r"^\d\. ", text, re.MULTILINE)) <= MOST_CHOICES
    assert "<" not in text


@every_template
def test_no_file_and_no_prompt_is_entered_twice(path: Path) -> None:
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    texts = [value for node in nodes for value in node["widgets_values"] if _is_own_text(value)]
    assert len(texts) == len(set(texts))
    assert sum(text.endswith(".safetensors") for text in texts) <= MOST_CHOICES


@every_template
def test_pictures_are_drawn_in_a_group_of_their_own_and_compared(path: Path) -> None:
    workflow = json.loads(path.read_text(encoding="utf-8"))
    drawing = [node for node in workflow["nodes"] if node["type"] in ("KSampler", "VAEDecode", "ImageCompare")]
    if path.stem == "Save for other programs":
        assert drawing == []
        return
    [group] = [group["bounding"] for group in workflow["groups"] if group["title"] == "Draw"]
    assert all(_inside(_box_of_node(node), group) for node in drawing)
    [compare] = [node for node in drawing if node["type"] == "ImageCompare"]
    assert all(slot["link"] for slot in compare["inputs"])


def _all_nodes(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of a workflow and of its subgraphs, without the nodes that stand for a subgraph."""
    subgraphs = workflow.get("definitions", {}).get("subgraphs", [])
    ids = {subgraph["id"] for subgraph in subgraphs}
    return [node for graph in (workflow, *subgraphs) for node in graph["nodes"] if node["type"] not in ids]


def _box_of_node(node: dict[str, Any]) -> Box:
    """left, top, width, height after a run; a node's title is above its place."""
    (left, top), (width, height) = node["pos"], node["size"]
    height = max(height, GROWN.get(node["type"], 0))
    return left, top - TITLE_HEIGHT, width, height + TITLE_HEIGHT


def _overlap(first: Box, second: Box) -> bool:
    return all(first[side] < second[side] + second[side + 2] for side in (0, 1)) and all(
        second[side] < first[side] + first[side + 2] for side in (0, 1)
    )


def _inside(box: Box, frame: Box) -> bool:
    return all(
        frame[side] <= box[side] and box[side] + box[side + 2] <= frame[side] + frame[side + 2] for side in (0, 1)
    )


def _is_own_text(value: Any) -> bool:
    """Whether a value is the name of a file or a sentence, and not an option of a list or a folder for results."""
    return isinstance(value, str) and (value.endswith(".safetensors") or " " in value) and value != "choose a file"
