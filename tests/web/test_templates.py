"""The templates in ComfyUI's page: they open in both modes, run with the emoji models, and need few clicks."""

import json
import os
from collections.abc import Iterator
from itertools import combinations, count
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator
from safetensors.torch import load_file, save_file

from dev.paths import BLUEPRINTS, PACK_FOLDER, SMALL_MODELS, TEMPLATES
from dev.small_models import write_all
from dev.templates.emoji import with_emoji_models
from tests.host.small_templates import keep_short
from tests.web.comfy_page import ComfyPage, Served

FILES = sorted(TEMPLATES.glob("*.json"))
FIRST = "Use an SDXL LoRA on a fine-tune"
MOST_CLICKS = 6
_TOUCH = 1  # pixels that two nodes may share where they meet
_NUMBERS = count(1)

every_template = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


@every_template
def test_a_template_opens_with_no_two_nodes_over_each_other(page: ComfyPage, path: Path) -> None:
    page.load(json.loads(path.read_text(encoding="utf-8")), f"{path.stem} {next(_NUMBERS)}")
    page.look_at_all()
    assert _overlaps(page) == []
    page.take_screenshot(path.stem)


@every_template
@pytest.mark.one_mode
def test_a_template_runs_with_the_emoji_models(page: ComfyPage, path: Path) -> None:
    workflow = keep_short(with_emoji_models(json.loads(path.read_text(encoding="utf-8"))))
    page.load(workflow, f"{path.stem} {next(_NUMBERS)}")
    page.run()
    assert page.ended() == "execution_success"
    for node in workflow["nodes"]:
        if node["type"] in ("LoraTransferLoader", "LoraTransferProject", "LoraTransferSave"):
            assert page.message(node["id"])
    page.look_at_all()
    page.page.wait_for_timeout(500)  # the page fits nodes to their new texts; a short wait can only hide a fault
    assert _overlaps(page) == []
    page.take_screenshot(f"{path.stem}, after a run")


def test_the_blueprint_opens_with_its_widgets_and_becomes_five_nodes(page: ComfyPage) -> None:
    [path] = BLUEPRINTS.glob("*.json")
    page.load(json.loads(path.read_text(encoding="utf-8")), f"{path.stem} {next(_NUMBERS)}")
    page.page.wait_for_function("window.app.graph.nodes.length === 1 && window.app.graph.nodes[0].widgets.length > 0")
    [number] = page.page.evaluate("window.app.graph.nodes.map(node => Number(node.id))")
    widgets = page.page.evaluate("window.app.graph.nodes[0].widgets.map(widget => widget.name)")
    assert widgets == ["source", "target", "lora_name", "method", "threshold"]
    page.look_at(number)
    page.take_screenshot(path.stem)
    page.set_widget(number, "lora_name", "emoji_line_art.safetensors")
    prompt = page.page.evaluate("async () => (await window.app.graphToPrompt()).output")
    inputs = {content["class_type"]: content["inputs"] for content in prompt.values()}
    assert len(prompt) == len(inputs) == 5
    assert inputs["LoraTransferLoadLora"]["lora_name"] == "emoji_line_art.safetensors"
    assert inputs["LoraTransferLoadSourceBase"]["base_name"] == "checkpoints/sd_xl_base_1.0.safetensors"


@pytest.fixture
def new_page(served: Served, browser: Browser) -> Iterator[ComfyPage]:
    """An empty ComfyUI in Nodes 2.0, with two checkpoints and a LoRA that names its base."""
    write_all(SMALL_MODELS)
    for name in ("small_source.safetensors", "small_target.safetensors"):
        link = served.base / "models" / "checkpoints" / name
        link.unlink(missing_ok=True)
        os.link(SMALL_MODELS / "checkpoints" / name, link)
    tensors = load_file(SMALL_MODELS / "loras" / "small_lora.safetensors")
    lora = served.base / "models" / "loras" / "my_lora.safetensors"
    save_file(tensors, lora, {"ss_sd_model_name": "small_source.safetensors"})
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    page = ComfyPage(context, served)
    page.open()
    page.switch_mode("nodes2")
    yield page
    context.close()
    lora.unlink()


@pytest.mark.newest_page
def test_from_an_empty_comfyui_to_a_picture_in_six_clicks(new_page: ComfyPage) -> None:
    user = User(new_page)
    page = new_page.page
    user.click(page.get_by_role("button", name="Templates").first)
    user.click(page.get_by_text(PACK_FOLDER, exact=True).first)
    user.click(page.get_by_text(FIRST, exact=True).first)
    page.wait_for_function("window.app.graph.nodes.some(node => node.type === 'ImageCompare')")
    numbers = _numbers_by_type(new_page)
    _draw_small_pictures(new_page)
    user.choose(numbers["CheckpointLoaderSimple"], "ckpt_name", "small_target.safetensors")
    user.choose(numbers["LoraTransferLoader"], "lora_name", "my_lora.safetensors")
    new_page.watch_end()
    user.click(page.get_by_role("button", name="Run", exact=True).first)
    new_page.wait_for_end()
    assert new_page.ended() == "execution_success"
    new_page.wait_for_pictures(numbers["SaveImage"])
    new_page.look_at_all()
    new_page.take_screenshot("six clicks")
    assert user.clicks <= MOST_CLICKS
    assert new_page.errors_of_pack() == []


class User:
    """Clicks and chooses, and counts both. Choosing from a list counts as one."""

    def __init__(self, page: ComfyPage) -> None:
        self.page = page
        self.clicks = 0

    def click(self, place: Locator) -> None:
        self.clicks += 1
        place.click()

    def choose(self, node: int, widget: str, name: str) -> None:
        self.clicks += 1
        self.page.set_widget(node, widget, name)


def _draw_small_pictures(page: ComfyPage) -> None:
    """Makes the run short: no user would do this."""
    for node, widget, value in (
        ("EmptyLatentImage", "width", 64),
        ("EmptyLatentImage", "height", 64),
        ("KSampler", "steps", 2),
    ):
        page.page.evaluate(
            """([type, name, value]) => window.app.graph.nodes.filter(node => node.type === type).forEach(node => {
              node.widgets.find(widget => widget.name === name).value = value;
            })""",
            [node, widget, value],
        )


def _numbers_by_type(page: ComfyPage) -> dict[str, int]:
    return page.page.evaluate("Object.fromEntries(window.app.graph.nodes.map(node => [node.type, Number(node.id)]))")


def _overlaps(page: ComfyPage) -> list[tuple[str, str]]:
    boxes = page.boxes()
    return [(first, second) for first, second in combinations(boxes, 2) if _meet(boxes[first], boxes[second])]


def _meet(first: list[float], second: list[float]) -> bool:
    return all(
        first[side] + _TOUCH < second[side] + second[side + 2] and second[side] + _TOUCH < first[side] + first[side + 2]
        for side in (0, 1)
    )
