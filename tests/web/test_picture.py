"""The interactive picture on a node: drag the threshold, filter, save, reload; in both modes of the page."""

import csv
import io
import json
import re
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.web.comfy_page import ComfyPage
from tests.web.workflows import PROJECT, SAVE, SIMILARITY, node_of, transfer

_NUMBERS = count(1)

# Runs in the page: the element of a node's picture.
_PICTURE = """id => {
  const widget = window.app.graph.getNodeById(id)?.widgets?.find(w => w.name === "lora_transfer_picture");
  return widget?.element.isConnected ? widget.element.querySelector(".lt-picture") : null;
}"""


class Picture:
    """The picture on a node, as a user sees it."""

    def __init__(self, page: ComfyPage, node: int) -> None:
        self.page, self.node = page, node
        self.element = page.page.wait_for_function(_PICTURE, arg=node).as_element()
        assert self.element is not None

    def part(self, selector: str) -> Any:
        found = self.element.query_selector(selector)  # pyright: ignore[reportOptionalMemberAccess]
        assert found is not None, selector
        return found

    def counts(self) -> dict[str, int]:
        """What the picture says of its layers: {"transferred": 96}."""
        text = self.part(".lt-counts span").text_content()
        return {words: int(number) for number, words in re.findall(r"(\d+) ([a-z ]+)", text)}

    def open(self) -> None:
        if not self.part(".lt-heatmap").is_visible():
            self.part(".lt-open").evaluate("button => button.click()")  # it may lie below the window
            self.page.look_at(self.node)  # it has grown

    def drag_to(self, share: float) -> None:
        """Drags the line of the threshold to a share of the scale's width."""
        scale, mouse = self.part(".lt-scale"), self.page.page.mouse
        scale.hover()  # waits until the node stands still
        box = scale.bounding_box()
        mouse.down()
        mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2, steps=4)
        mouse.up()

    def download(self, kind: str) -> bytes:
        with self.page.page.expect_download() as started:
            self.part(f'button[title$="as {kind}"]').evaluate("button => button.click()")  # it may lie below the window
        return Path(started.value.path()).read_bytes()


def test_the_line_of_the_threshold_can_be_dragged(page: ComfyPage) -> None:
    picture = _picture_of(page, PROJECT)
    before, saved = picture.counts(), _threshold(page)
    picture.drag_to(1.0)
    assert _threshold(page) == 1.0
    after = picture.counts()
    assert after["left out by the threshold"] > before.get("left out by the threshold", 0)
    assert sum(after.values()) == sum(before.values())
    page.take_screenshot("a dragged threshold")
    page.page.keyboard.press("Control+z")
    page.page.wait_for_function(f"window.app.graph.getNodeById({PROJECT})?.widgets[1].value === {saved}")
    assert Picture(page, PROJECT).counts() == before


def test_the_line_follows_the_nodes_own_widget_and_the_keyboard(page: ComfyPage) -> None:
    picture = _picture_of(page, PROJECT)
    page.set_widget(PROJECT, "threshold", 0.5)
    assert picture.part(".lt-scale").get_attribute("aria-valuenow") == "0.50"
    picture.part(".lt-scale").focus()
    page.page.keyboard.press("ArrowRight")
    assert _threshold(page) == 0.51


@pytest.mark.one_mode
def test_a_filter_leaves_out_a_role_and_stays_after_a_reload(page: ComfyPage) -> None:
    picture = _picture_of(page, PROJECT)
    picture.open()
    whole = sum(picture.counts().values())
    role = picture.part('button[aria-pressed="true"]')
    role.click()
    filtered = sum(picture.counts().values())
    assert 0 < filtered < whole
    page.wait_for_draft("hidden")
    page.wait_for_draft(role.text_content())
    page.reload()
    again = Picture(page, PROJECT)
    again.part(".lt-heatmap").wait_for_element_state("visible")
    assert sum(again.counts().values()) == filtered


def test_pointing_at_a_layer_says_all_that_is_known_of_it(page: ComfyPage) -> None:
    picture = _picture_of(page, PROJECT)
    picture.open()
    heatmap = picture.part(".lt-heatmap")
    heatmap.focus()
    page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("ArrowRight")
    text = picture.part(".lt-detail").text_content()
    assert re.search(r"\d+ x \d+", text)
    assert re.search(r"(cosine|similarity) -?\d\.\d{3}", text)
    assert "transferred" in text or "left out" in text or "copied" in text
    page.look_at(SIMILARITY, PROJECT)
    page.take_screenshot("all layers")


@pytest.mark.one_mode
def test_the_picture_can_be_saved_in_three_kinds(page: ComfyPage) -> None:
    picture = _picture_of(page, PROJECT)
    picture.open()
    layers = json.loads(picture.download("JSON"))["layers"]
    rows = list(csv.DictReader(io.StringIO(picture.download("CSV").decode())))
    assert len(layers) == len(rows) == sum(picture.counts().values())
    assert {row["state"] for row in rows} <= {"kept", "copied", "below", "unmatched"}
    assert picture.download("PNG").startswith(b"\x89PNG")


@pytest.mark.one_mode
def test_the_picture_stays_small_in_the_workflow(page: ComfyPage) -> None:
    _picture_of(page, SIMILARITY)
    saved: dict[str, Any] = page.page.evaluate("window.app.graph.serialize()")
    node = next(node for node in saved["nodes"] if node["id"] == SIMILARITY)
    assert len(json.dumps(node["properties"])) < 20_000
    assert "lora_transfer_picture" not in json.dumps(node.get("widgets_values"))


def _picture_of(page: ComfyPage, node: int) -> Picture:
    workflow = transfer()
    node_of(workflow, SAVE)["pos"] = [0, 3000]  # the node above it grows
    page.load(workflow, f"picture {next(_NUMBERS)} {page.mode}")
    page.run()
    picture = Picture(page, node)
    page.look_at(node)
    return picture


def _threshold(page: ComfyPage) -> float:
    return page.page.evaluate(
        f"window.app.graph.getNodeById({PROJECT}).widgets.find(w => w.name === 'threshold').value"
    )
