"""Saved workflows keep working: tests/host/schema.json holds what they depend on."""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_transfer.nodes import NODES
from tests.host.frozen_schema import describe, dump, find_breaks

FILE = Path(__file__).with_name("schema.json")
RENEW = "LORA_TRANSFER_RENEW_SCHEMA"
HOW_TO_MIGRATE = f"""
These changes break saved workflows, or give their values to other inputs. Instead of
  renaming an input: keep its id, and set its display_name;
  removing an input or an option: keep it, advanced, and ignore its value;
  adding an input: make it optional, behind all other widgets of its node;
  adding, changing or ordering outputs: put a new output behind the others;
  anything else: leave this node as it is, deprecated (is_deprecated in its schema), make a node with a new id, and
  register io.NodeReplace in LoraTransferExtension.on_load, so that ComfyUI offers to replace the old one.
If nobody can have saved such a workflow yet: {RENEW}=breaking renews the file, and CHANGELOG.md must say so."""


def test_a_saved_workflow_finds_every_node_input_and_output_where_it_was() -> None:
    if os.environ.get(RENEW) == "breaking":
        pytest.skip(f"{RENEW}=breaking accepts every change")
    breaks = find_breaks(_frozen(), _today())
    assert not breaks, "\n".join([*breaks, HOW_TO_MIGRATE])


def test_the_frozen_schema_is_that_of_today() -> None:
    today, setting = _today(), os.environ.get(RENEW)
    if setting == "breaking" or (setting and not find_breaks(_frozen(), today)):
        FILE.write_text(dump(today))
    assert _frozen() == today, f"The schema changed. If the other test passes, {RENEW}=1 renews {FILE.name}."


def _today() -> dict[str, Any]:
    nodes = {node.GET_SCHEMA().node_id: describe(node.GET_NODE_INFO_V1()) for node in NODES}
    return json.loads(json.dumps(nodes))


def _frozen() -> dict[str, Any]:
    return json.loads(FILE.read_text())


SMALL = {
    "Node": {
        "name": "Node",
        "runs_alone": True,
        "inputs": [
            {"id": "model", "type": "MODEL", "required": True},
            {"id": "kind", "type": "COMBO", "required": True, "options": ["a", "b"]},
            {"id": "steps", "type": "INT", "required": False, "default": 4, "min": 1, "max": 9},
            {"id": "vae", "type": "VAE", "required": False},
            {
                "id": "rule",
                "type": "COMFY_DYNAMICCOMBO_V3",
                "required": False,
                "options": {"one": [{"id": "amount", "type": "FLOAT", "required": True}], "none": []},
            },
            {"id": "more", "type": "COMFY_AUTOGROW_V3", "required": False, "max": 4, "grows": {"prefix": "more_"}},
        ],
        "outputs": ["model: MODEL", "report: STRING"],
    }
}

Change = Callable[[Any], Any]  # gets the node "Node"
BREAKING: dict[str, Change] = {
    "an input that is gone": lambda node: node["inputs"].pop(2),
    "a socket that is gone": lambda node: node["inputs"].pop(0),
    "a renamed input": lambda node: node["inputs"][2].update(id="count"),
    "a renamed socket": lambda node: node["inputs"][0].update(id="base"),
    "widgets in another order": lambda node: node["inputs"].insert(1, node["inputs"].pop(2)),
    "a new widget between others": lambda node: node["inputs"].insert(2, _widget("new")),
    "a new widget in front": lambda node: node["inputs"].insert(0, _widget("new")),
    "a new required socket": lambda node: node["inputs"].insert(0, {"id": "new", "type": "CLIP", "required": True}),
    "a new required widget at the end": lambda node: node["inputs"].append(_widget("new") | {"required": True}),
    "another type": lambda node: node["inputs"][2].update(type="FLOAT"),
    "an optional input that becomes required": lambda node: node["inputs"][3].update(required=True),
    "a lost option": lambda node: node["inputs"][1].update(options=["a"]),
    "a renamed option": lambda node: node["inputs"][1].update(options=["a", "c"]),
    "a smaller range": lambda node: node["inputs"][2].update(max=8),
    "a larger minimum": lambda node: node["inputs"][2].update(min=2),
    "a widget for what to do after a run": lambda node: node["inputs"][2].update(control_after_generate=True),
    "a lost dynamic option": lambda node: node["inputs"][4]["options"].pop("none"),
    "an input of an option that is gone": lambda node: node["inputs"][4]["options"].update(one=[]),
    "growing sockets of another name": lambda node: node["inputs"][5].update(grows={"prefix": "other_"}),
    "fewer growing sockets": lambda node: node["inputs"][5].update(max=3),
    "an output that is gone": lambda node: node["outputs"].pop(),
    "a renamed output": lambda node: node["outputs"].__setitem__(1, "text: STRING"),
    "an output of another type": lambda node: node["outputs"].__setitem__(1, "report: IMAGE"),
    "outputs in another order": lambda node: node["outputs"].reverse(),
    "a new output in front": lambda node: node["outputs"].insert(0, "new: IMAGE"),
    "a node that no longer runs alone": lambda node: node.update(runs_alone=False),
}
HARMLESS: dict[str, Change] = {
    "a new optional widget at the end": lambda node: node["inputs"].append(_widget("new")),
    "a new optional socket": lambda node: node["inputs"].insert(3, {"id": "clip", "type": "CLIP", "required": False}),
    "a new option": lambda node: node["inputs"][1].update(options=["a", "c", "b"]),
    "a larger range": lambda node: node["inputs"][2].update(min=0, max=10),
    "a range without an end": lambda node: node["inputs"][2].pop("max"),
    "another default": lambda node: node["inputs"][2].update(default=5),
    "a required input that becomes optional": lambda node: node["inputs"][1].update(required=False),
    "a new dynamic option": lambda node: node["inputs"][4]["options"].update(two=[]),
    "a new output at the end": lambda node: node["outputs"].append("new: IMAGE"),
    "another display name": lambda node: node.update(name="A better name"),
}


@pytest.mark.parametrize("change", BREAKING)
def test_a_change_that_breaks_saved_workflows_is_seen(change: str) -> None:
    breaks = find_breaks(SMALL, _changed(BREAKING[change]))
    assert breaks
    assert all(sentence.startswith("Node: ") for sentence in breaks)


@pytest.mark.parametrize("change", HARMLESS)
def test_a_harmless_change_is_allowed(change: str) -> None:
    changed = _changed(HARMLESS[change])
    assert changed != SMALL
    assert find_breaks(SMALL, changed) == []


def test_a_node_that_is_gone_breaks_workflows_and_a_new_node_does_not() -> None:
    assert find_breaks(SMALL, {}) == ["Node: the node is gone"]
    assert find_breaks({}, SMALL) == []


def test_the_file_keeps_everything_that_it_is_written_from() -> None:
    assert json.loads(dump(SMALL)) == SMALL


def test_lists_of_files_and_texts_are_left_out() -> None:
    combo = {"options": ["auto", "checkpoints/a.safetensors", "b.ckpt"], "tooltip": "A file."}
    node = {
        "display_name": "Node",
        "output_node": False,
        "input": {"required": {"file": ["COMBO", combo]}},
        "output": [],
        "output_name": [],
    }
    assert describe(node)["inputs"] == [{"id": "file", "type": "COMBO", "required": True, "options": ["auto"]}]


def _changed(change: Change) -> Any:
    changed = copy.deepcopy(SMALL)
    change(changed["Node"])
    return changed


def _widget(name: str) -> dict[str, Any]:
    return {"id": name, "type": "INT", "required": False}
