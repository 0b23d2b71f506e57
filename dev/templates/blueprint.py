"""The subgraph blueprint "Transfer a LoRA": five nodes as one, with the widgets that a user changes."""

import uuid
from typing import Any

from .graph import SUBGRAPH_INPUT, SUBGRAPH_OUTPUT, Graph, Node, Output, registry_entry
from .names import FINE_TUNE, LORA, SOURCE

NAME = "Transfer a LoRA"
DESCRIPTION = "Transfers a LoRA from the base that it was trained on to another one, and outputs the LoRA for it."

# Name on the node -> type, in the order of the node's widgets.
_INPUTS = {"source": "COMBO", "target": "COMBO", "lora_name": "COMBO", "method": "COMBO", "threshold": "FLOAT"}
_OUTPUTS = ("transferred", "lora_model", "report")  # of Project LoRA
_COLUMN = 500


def build_blueprint(object_info: dict[str, Any]) -> dict[str, Any]:
    """The blueprint as the page saves one: a workflow of one node, which is the subgraph."""
    graph = Graph(object_info)
    widgets = {name: Output(SUBGRAPH_INPUT, slot, type_) for slot, (name, type_) in enumerate(_INPUTS.items())}
    source = graph.add("LoraTransferLoadSourceBase", (0, 0), base_name=widgets["source"])
    target = graph.add("LoraTransferLoadTargetBase", (0, 320), base_name=widgets["target"])
    lora = graph.add("LoraTransferLoadLora", (0, 640), lora_name=widgets["lora_name"])
    similarity = graph.add(
        "LoraTransferSimilarity", (_COLUMN, 0), source=source["base"], target=target["base"], adapter=lora["adapter"]
    )
    project = graph.add(
        "LoraTransferProject",
        (2 * _COLUMN, 0),
        similarity=similarity["similarity"],
        adapter=lora["adapter"],
        method=widgets["method"],
        threshold=widgets["threshold"],
    )
    for node, name in ((source, f"checkpoints/{SOURCE}"), (target, f"checkpoints/{FINE_TUNE}"), (lora, LORA)):
        graph.nodes[node.number - 1]["widgets_values"][0] = name
    return _wrap(graph, project)


def _wrap(graph: Graph, project: Node) -> dict[str, Any]:
    outputs = [_append_output(graph, slot, project[name]) for slot, name in enumerate(_OUTPUTS)]
    inputs = [
        _edge(name, type_, slot, -260, _links_from(graph, slot)) for slot, (name, type_) in enumerate(_INPUTS.items())
    ]
    number = len(graph.nodes) + 1
    subgraph = {
        "id": _id(NAME),
        "version": 1,
        "state": {
            "lastGroupId": 0,
            "lastNodeId": number,
            "lastLinkId": len(graph.links),
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": NAME,
        "description": DESCRIPTION,
        "category": "LoRA Transfer",
        "inputNode": {"id": SUBGRAPH_INPUT, "bounding": [-320, 0, 140, 40 + 20 * len(inputs)]},
        "outputNode": {"id": SUBGRAPH_OUTPUT, "bounding": [3 * _COLUMN + 20, 0, 140, 40 + 20 * len(outputs)]},
        "inputs": inputs,
        "outputs": outputs,
        "widgets": [],
        "nodes": graph.nodes,
        "groups": [],
        "links": [_as_object(link) for link in graph.links],
        "extra": {},
    }
    return {
        "id": _id(f"{NAME}, blueprint"),
        "revision": 0,
        "last_node_id": number,
        "last_link_id": 0,
        "nodes": [_node(number)],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [subgraph]},
        "extra": {},
    }


def _node(number: int) -> dict[str, Any]:
    """The node that stands for the subgraph."""
    return {
        "id": number,
        "type": _id(NAME),
        "title": NAME,
        "pos": [0, 0],
        "size": [420, 240],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [
            {"name": name, "type": type_, "widget": {"name": name}, "link": None} for name, type_ in _INPUTS.items()
        ],
        "outputs": [{"name": name, "type": type_, "links": []} for name, type_ in _output_types().items()],
        "properties": registry_entry("LoraTransfer"),
        "widgets_values": [],
    }


def _output_types() -> dict[str, str]:
    return dict(zip(_OUTPUTS, ("LORA_TRANSFER_ADAPTER", "LORA_MODEL", "STRING"), strict=True))


def _append_output(graph: Graph, slot: int, output: Output) -> dict[str, Any]:
    """Links an output of a node to an output of the subgraph."""
    link = len(graph.links) + 1
    graph.links.append([link, output.node, output.slot, SUBGRAPH_OUTPUT, slot, output.type])
    graph.nodes[output.node - 1]["outputs"][output.slot]["links"].append(link)
    return _edge(_OUTPUTS[slot], output.type, slot, 3 * _COLUMN + 40, [link])


def _edge(name: str, type_: str, slot: int, left: int, links: list[int]) -> dict[str, Any]:
    """An input or output of the subgraph."""
    return {"id": _id(f"{NAME}, {name}"), "name": name, "type": type_, "linkIds": links, "pos": [left, 20 + 20 * slot]}


def _links_from(graph: Graph, slot: int) -> list[int]:
    return [link[0] for link in graph.links if link[1:3] == [SUBGRAPH_INPUT, slot]]


def _as_object(link: list[Any]) -> dict[str, Any]:
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return dict(zip(names, link, strict=True))


def _id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))
