"""What a user sees of the nodes: few widgets at first, outputs in the order of use, and words that find them."""

import json
from pathlib import Path
from typing import Any

import pytest

from dev.paths import DEMO_WORKFLOW, REFINE_WORKFLOW
from dev.workflow import widget_inputs
from lora_transfer.nodes import NODES
from tests.conftest import ROOT

SCHEMAS = [node.GET_SCHEMA() for node in NODES]
IDS = [schema.node_id for schema in SCHEMAS]
OF_USER = {  # names that users know from their workflows
    "LoraTransferLoadSourceBase": "Load Source Base",
    "LoraTransferLoadTargetBase": "Load Target Base",
    "LoraTransferLoadLora": "Load LoRA (Transfer)",
    "LoraTransferSimilarity": "Compute Subspace Similarity",
    "LoraTransferProject": "Project LoRA",
    "LoraTransferSave": "Save LoRA (Transfer)",
}
WORKFLOWS = [DEMO_WORKFLOW, REFINE_WORKFLOW, *sorted((ROOT / "example_workflows").glob("*.json"))]
_OF_SMALL_MODELS = ("size",)  # the demo's models paint at 64 pixels
_MOST_WIDGETS = 4  # that a node shows at first: what nearly everybody sets


def test_the_names_that_users_know_stay() -> None:
    names = {schema.node_id: schema.display_name for schema in SCHEMAS}
    assert OF_USER.items() <= names.items()


@pytest.mark.parametrize("schema", SCHEMAS, ids=IDS)
def test_a_node_shows_few_widgets_until_its_advanced_ones_are_opened(schema: Any) -> None:
    shown = [item.id for item in schema.inputs if _has_widget(item) and not _is_advanced(item)]
    assert len(shown) <= _MOST_WIDGETS, shown


@pytest.mark.parametrize("schema", SCHEMAS, ids=IDS)
def test_advanced_inputs_may_be_left_out_of_a_prompt(schema: Any) -> None:
    assert [item.id for item in schema.inputs if _is_advanced(item) and not item.optional] == []


@pytest.mark.parametrize("schema", SCHEMAS, ids=IDS)
def test_inputs_stand_in_the_order_in_which_the_page_shows_them(schema: Any) -> None:
    """The page shows required inputs first, and saves widgets by their position."""
    order = [(bool(item.optional), _has_widget(item) and _is_advanced(item)) for item in schema.inputs]
    growing = [item.id for item in schema.inputs if item.get_io_type() == "COMFY_AUTOGROW_V3"]
    assert order[: len(order) - len(growing)] == sorted(order[: len(order) - len(growing)])
    assert growing in ([], [schema.inputs[-1].id])  # its new sockets would push the inputs below it down


@pytest.mark.parametrize("schema", SCHEMAS, ids=IDS)
def test_pictures_are_the_last_outputs(schema: Any) -> None:
    pictures = [output.get_io_type() == "IMAGE" for output in schema.outputs]
    assert pictures == sorted(pictures)


@pytest.mark.parametrize("schema", SCHEMAS, ids=IDS)
def test_a_node_is_found_by_words_of_its_own(schema: Any) -> None:
    aliases = schema.search_aliases
    assert aliases
    assert aliases == [alias.lower() for alias in aliases]
    others = [alias for other in SCHEMAS if other is not schema for alias in other.search_aliases]
    assert set(aliases).isdisjoint(others)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_our_workflows_leave_advanced_inputs_and_the_threshold_at_their_defaults(workflow: Path) -> None:
    nodes = {node.GET_SCHEMA().node_id: node for node in NODES}
    for saved in json.loads(workflow.read_text())["nodes"]:
        if saved["type"] not in nodes:
            continue
        node = nodes[saved["type"]]
        values = widget_inputs(saved, node.GET_NODE_INFO_V1())
        for item in node.GET_SCHEMA().inputs:
            if item.id in values and (_is_advanced(item) or item.id == "threshold") and item.id not in _OF_SMALL_MODELS:
                default = item.options[0].key if item.get_io_type() == "COMFY_DYNAMICCOMBO_V3" else item.default
                assert values[item.id] == default, f"{node.GET_SCHEMA().node_id}, {item.id}"


def _has_widget(item: Any) -> bool:
    return hasattr(item, "default") or item.get_io_type() == "COMFY_DYNAMICCOMBO_V3"


def _is_advanced(item: Any) -> bool:
    return bool(getattr(item, "advanced", None) or (item.extra_dict or {}).get("advanced"))
