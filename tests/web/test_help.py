"""The page finds the help and the texts of the nodes, in English and in Chinese."""

import urllib.request
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from dev.paths import PACK_FOLDER
from tests.web.comfy_page import ComfyPage, Served
from tests.web.workflows import PROJECT, transfer

LANGUAGE = "Comfy.Locale"
SENTENCE = "Transfers the LoRA to the target base, layer by layer"  # in the help of Project LoRA

# Runs in the page: the title of a new node, and the labels of its widgets and sockets.
_TEXTS = """kind => {
  const node = LiteGraph.createNode(kind);
  const slots = [...node.inputs, ...node.outputs].map(slot => slot.localized_name ?? slot.name);
  return { title: node.title, texts: [...node.widgets.map(widget => widget.label ?? widget.name), ...slots] };
}"""

# Run in the page: select a node; add a node, and tell its number; close the panel with the help.
_SELECT = "id => window.app.canvas.selectItems([window.app.graph.getNodeById(id)])"
_ADD = """kind => {
  const node = LiteGraph.createNode(kind);
  window.app.graph.add(node);
  return Number(node.id);
}"""
_CLOSE = """() => document.querySelector("#vue-app").__vue_app__.config.globalProperties.$pinia._s.get("rightSidePanel")
  .closePanel()"""

# Runs in the page: whether the help of a kind of node shows its picture.
_HAS_PICTURE = """kind => [...document.querySelectorAll(".node-help-content img")]
  .some(image => image.src.includes(kind) && image.naturalWidth)"""

# Runs in the page: the headings of tables that are wider than the panel, which cuts them off.
_WIDER = """() => [...document.querySelectorAll(".node-help-content table")]
  .filter(table => table.scrollWidth > table.clientWidth + 2).map(table => table.tHead.textContent.trim())"""


@pytest.fixture(scope="module")
def chinese(served: Served, browser: Browser) -> Iterator[ComfyPage]:
    served.client.post(f"/settings/{LANGUAGE}", "zh")  # type: ignore[arg-type]
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    page = ComfyPage(context, served)
    page.open()
    yield page
    assert page.errors_of_pack() == []
    context.close()
    served.client.post(f"/settings/{LANGUAGE}", "en")  # type: ignore[arg-type]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_server_has_the_help_and_its_picture_where_the_page_looks_for_them(served: Served, language: str) -> None:
    folder = f"http://{served.client.address}/extensions/{PACK_FOLDER}/docs"
    for path in (f"LoraTransferProject/{language}.md", "images/LoraTransferProject.png"):
        with urllib.request.urlopen(f"{folder}/{path}", timeout=60) as answer:  # noqa: S310
            assert answer.status == 200


@pytest.mark.one_mode
def test_the_help_of_a_node_opens_beside_it_with_its_picture_and_nothing_is_cut_off(page: ComfyPage) -> None:
    page.load(transfer(), f"help {page.mode}")
    page.look_at(PROJECT)
    page.page.evaluate(_SELECT, PROJECT)
    page.page.get_by_test_id("info-button").click()
    help_panel = page.page.locator(".node-help-content")
    try:
        help_panel.get_by_text(SENTENCE).wait_for()
        page.page.wait_for_function(_HAS_PICTURE, arg="LoraTransferProject")
        page.take_screenshot("help")
        for kind in ("LoraTransferProject", "LoraTransferRefine", "LoraTransferCheck", "LoraTransferPrompts"):
            page.page.evaluate(_SELECT, page.page.evaluate(_ADD, kind))
            page.page.wait_for_function(_HAS_PICTURE, arg=kind)
            assert page.page.evaluate(_WIDER) == []
    finally:
        page.page.evaluate(_CLOSE)  # it takes a part of the canvas from the next test


def test_a_node_is_in_chinese(chinese: ComfyPage) -> None:
    node = chinese.page.evaluate(_TEXTS, "LoraTransferProject")
    assert node["title"] == "投影 LoRA"
    assert {"方法", "阈值", "相似度", "迁移后的 LoRA", "报告"} <= set(node["texts"])
