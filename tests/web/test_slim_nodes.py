"""The nodes are slim on the page, in both of its modes, and a search finds the right node first."""

from itertools import count

import pytest

from tests.web.comfy_page import ComfyPage
from tests.web.workflows import PROJECT, SIMILARITY, transfer

_NUMBERS = count(1)

# Words that people type -> the node that they mean.
WORDS = {
    "convert lora": "LoraTransferLoader",
    "lora converter": "LoraTransferLoader",
    "rebase": "LoraTransferLoader",
    "migrate": "LoraTransferLoader",
    "sdxl to ssd": "LoraTransferLoader",
    "lora for another model": "LoraTransferLoader",
    "prolora": "LoraTransferProject",
    "lora-x": "LoraTransferTrain",
    "subspace similarity": "LoraTransferSimilarity",
    "lora compatibility": "LoraTransferSimilarity",
    "best lora strength": "LoraTransferCheck",
    "train lora without data": "LoraTransferRefine",
}

# Runs in the page: the nodes that the page's search finds, best first.
_SEARCH = """word => document.querySelector("#vue-app").__vue_app__.config.globalProperties.$pinia._s.get("nodeDef")
  .nodeSearchService.searchNode(word, [], { limit: 64 }).map(node => node.name)"""

# Runs in the page: the names of a node's widgets that are seen. Text fields have no name in Nodes 2.0.
_SEEN = """id => {
  const node = window.app.graph.getNodeById(id);
  const seen = node.widgets.filter(widget => node.isWidgetVisible(widget));
  if (!LiteGraph.vueNodesMode) return seen.map(widget => widget.name);
  const labels = document.querySelectorAll(`[data-node-id="${id}"] [data-testid="widget-layout-field-label"]`);
  return [...labels].map(label => label.textContent.trim());
}"""

# Runs in the page: does what the node's menu does at "Show Advanced", if the menu has it.
_SHOW_ADVANCED = """id => {
  const node = window.app.graph.getNodeById(id);
  const entries = window.app.canvas.getNodeMenuOptions(node).map(option => option?.content);
  if (entries.includes("Show Advanced")) node.toggleAdvanced();
}"""


@pytest.mark.parametrize("word", WORDS)
def test_the_search_finds_the_right_node_first(tab: ComfyPage, word: str) -> None:
    assert tab.page.evaluate(_SEARCH, word)[:1] == [WORDS[word]]


def test_advanced_widgets_are_hidden_until_they_are_asked_for(page: ComfyPage) -> None:
    page.load(transfer(), f"slim {next(_NUMBERS)}")
    _wait_for_widgets(page, PROJECT, ["method", "threshold"])
    _wait_for_widgets(page, SIMILARITY, [])
    page.look_at(PROJECT, SIMILARITY)
    page.take_screenshot("slim nodes")
    if page.mode == "canvas":
        page.page.evaluate(_SHOW_ADVANCED, PROJECT)
    else:
        page.page.locator(f'[data-node-id="{PROJECT}"] [data-testid="advanced-inputs-button"]').click()
    advanced = ["below_threshold", "gain", "force", "rescale", "out_rank", "dense_rank", "dense_energy"]
    _wait_for_widgets(page, PROJECT, ["method", "threshold", *advanced])


@pytest.mark.one_mode
def test_hidden_widgets_are_part_of_the_prompt(page: ComfyPage) -> None:
    page.load(transfer(), f"slim {next(_NUMBERS)}")
    page.set_widget(PROJECT, "gain", 1.25)
    prompt = page.page.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert prompt[str(PROJECT)]["inputs"]["gain"] == 1.25
    assert prompt[str(SIMILARITY)]["inputs"]["rank_rule.fraction"] == 0.5


def _wait_for_widgets(page: ComfyPage, node: int, names: list[str]) -> None:
    page.page.wait_for_function(f"([id, names]) => ({_SEEN})(id).join() === names.join()", arg=[node, names])
