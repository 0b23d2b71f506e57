"""The page finds the help and the texts of the nodes, in English and in Chinese."""

import urllib.request
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from dev.paths import PACK_FOLDER
from tests.web.comfy_page import ComfyPage, Served

LANGUAGE = "Comfy.Locale"

# Runs in the page: the title of a new node, and the labels of its widgets and sockets.
_TEXTS = """kind => {
  const node = LiteGraph.createNode(kind);
  const slots = [...node.inputs, ...node.outputs].map(slot => slot.localized_name ?? slot.name);
  return { title: node.title, texts: [...node.widgets.map(widget => widget.label ?? widget.name), ...slots] };
}"""


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


def test_a_node_is_in_chinese(chinese: ComfyPage) -> None:
    node = chinese.page.evaluate(_TEXTS, "LoraTransferProject")
    assert node["title"] == "投影 LoRA"
    assert {"方法", "阈值", "相似度", "迁移后的 LoRA", "报告"} <= set(node["texts"])
