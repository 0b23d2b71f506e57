"""A workflow in the making: nodes, links and groups, written as ComfyUI's page saves them."""

import re
import uuid
from dataclasses import dataclass
from typing import Any

from ..paths import ROOT

PACK = "LoraTransfer"  # what the ids of our nodes begin with
DEMO = "LoraTransferDemo"  # the demo's nodes are in no registry
COMFYUI = "0.30.0"  # the ComfyUI that the nodes were written for
FRONT_END = "1.47.12"
NOTE = "MarkdownNote"  # exists only on the page
SUBGRAPH_INPUT, SUBGRAPH_OUTPUT = -10, -20  # the page's numbers of a subgraph's two edges
TITLE_HEIGHT, GAP, COLOUR = 30, 30, "#3f5159"

# Space for a node in pixels, from its upper edge below the title: what both modes of the page need, with room for
# the text and the picture that the node shows after a run.
SIZES = {
    NOTE: (420, 440),
    "CheckpointLoaderSimple": (420, 130),
    "CLIPTextEncode": (420, 140),
    "EmptyLatentImage": (420, 170),
    "ImageCompare": (560, 620),
    "KSampler": (360, 330),
    "LoadImageTextDataSetFromFolder": (420, 130),
    "MakeTrainingDataset": (420, 150),
    "PreviewImage": (420, 480),
    "PrimitiveInt": (420, 130),
    "PrimitiveStringMultiline": (420, 200),
    "SaveImage": (420, 520),
    "UNETLoader": (420, 150),
    "VAEDecode": (360, 80),
    "LoraTransferLoader": (460, 620),
    "LoraTransferLoadSourceBase": (420, 260),
    "LoraTransferLoadTargetBase": (420, 260),
    "LoraTransferLoadLora": (420, 240),
    "LoraTransferSimilarity": (460, 620),
    "LoraTransferProject": (460, 560),
    "LoraTransferApply": (420, 300),
    "LoraTransferCheck": (460, 860),
    "LoraTransferPrompts": (420, 420),
    "LoraTransferRefine": (460, 960),
    "LoraTransferTrain": (460, 960),
    "LoraTransferSave": (460, 260),
}
# Heights that nodes reach when they show a long text and a picture. No node stands below these.
GROWN = {"LoraTransferLoader": 1000, "LoraTransferSimilarity": 1200, "LoraTransferProject": 1000}
_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
_WITHOUT_SOCKET = ("COMFY_AUTOGROW_V3", "IMAGECOMPARE")  # the page makes what these inputs need


@dataclass(frozen=True)
class Output:
    """An output of a node, to connect inputs to."""

    node: int
    slot: int
    type: str


@dataclass(frozen=True)
class Node:
    """A node of a graph, with its outputs by name, in order."""

    number: int
    outputs: dict[str, Output]

    def __getitem__(self, name: str) -> Output:
        return self.outputs[name.lower()]


class Graph:
    """Nodes, links and groups. object_info: the server's description of all nodes."""

    def __init__(self, object_info: dict[str, Any]) -> None:
        self.object_info = object_info
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []
        self.groups: list[dict[str, Any]] = []

    def add(self, kind: str, at: tuple[int, int], title: str = "", **inputs: Any) -> Node:
        """Adds a node at a place. An input is connected if its value is an `Output`; otherwise it is a widget's value.

        An input of a chosen option is written `combo__input`. Without a value, a widget has its default."""
        number = len(self.nodes) + 1
        if kind == NOTE:
            self._append(number, kind, at, title, [], [], [inputs["text"]])
            return Node(number, {})
        description = self.object_info[kind]
        specs = {**description["input"].get("required", {}), **description["input"].get("optional", {})}
        if unknown := [name for name in inputs if name.split("__")[0] not in specs]:
            raise ValueError(f"{kind} has no input {', '.join(unknown)}")
        slots = self._connect(number, specs, inputs)
        outputs = [
            {"name": name, "type": type_, "links": []}
            for name, type_ in zip(description["output_name"], description["output"], strict=True)
        ]
        self._append(number, kind, at, title, slots, outputs, _values(specs, inputs, ""))
        return Node(
            number, {slot["name"].lower(): Output(number, index, slot["type"]) for index, slot in enumerate(outputs)}
        )

    def group(self, title: str, *nodes: Node) -> None:
        """Draws a frame around nodes."""
        numbers = {node.number for node in nodes}
        boxes: list[tuple[int, int, int, int]] = [
            (*node["pos"], node["size"][0], GROWN.get(node["type"]) or node["size"][1])
            for node in self.nodes
            if node["id"] in numbers
        ]
        left, top = min(box[0] for box in boxes) - 20, min(box[1] for box in boxes) - TITLE_HEIGHT - 60
        right, bottom = max(box[0] + box[2] for box in boxes) + 20, max(box[1] + box[3] for box in boxes) + 20
        bounding = [left, top, right - left, bottom - top]
        self.groups.append(
            {"id": len(self.groups) + 1, "title": title, "bounding": bounding, "color": COLOUR, "flags": {}}
        )

    def as_json(self, name: str) -> dict[str, Any]:
        """The workflow. Its id depends on nothing but the name, so that writing it again changes nothing."""
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": self.groups,
            "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [80, 120]}, "frontendVersion": FRONT_END},
            "version": 0.4,
        }

    def _connect(self, number: int, specs: dict[str, Any], inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """The sockets of a node: all that have no widget, and the widgets that are connected."""
        slots: list[dict[str, Any]] = []
        for name, (type_, *_) in specs.items():
            output, is_widget = inputs.get(name), _is_widget(type_)
            widget = {"widget": {"name": name}} if is_widget else {}
            if isinstance(output, Output):
                link = self._link(output, number, len(slots))
                slots.append({"name": name, "type": output.type, **widget, "link": link})
            elif not is_widget and type_ not in _WITHOUT_SOCKET:
                slots.append({"name": name, "type": type_, "link": None})
        return slots

    def _link(self, output: Output, number: int, slot: int) -> int:
        link = len(self.links) + 1
        self.links.append([link, output.node, output.slot, number, slot, output.type])
        if output.node != SUBGRAPH_INPUT:
            self.nodes[output.node - 1]["outputs"][output.slot]["links"].append(link)
        return link

    def _append(
        self,
        number: int,
        kind: str,
        at: tuple[int, int],
        title: str,
        slots: list[dict[str, Any]],
        outputs: list[dict[str, Any]],
        values: list[Any],
    ) -> None:
        node: dict[str, Any] = {
            "id": number,
            "type": kind,
            "pos": list(at),
            "size": list(SIZES[kind]),
            "flags": {},
            "order": number - 1,  # nodes are added after those that they depend on
            "mode": 0,
            "inputs": slots,
            "outputs": outputs,
            "properties": {"Node name for S&R": kind, **registry_entry(kind)},
            "widgets_values": values,
        }
        if title:
            node["title"] = title
        self.nodes.append(node)


def registry_entry(kind: str) -> dict[str, str]:
    """The pack and version of a node, by which a manager offers to install what is missing."""
    if kind.startswith(DEMO):
        return {}
    if not kind.startswith(PACK):
        return {"cnr_id": "comfy-core", "ver": COMFYUI}
    name, version = (pyproject_value(field) for field in ("name", "version"))
    return {"cnr_id": name, "ver": version}


def pyproject_value(field: str) -> str:
    match = re.search(rf'^{field} = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise ValueError(f"pyproject.toml has no {field}")
    return match[1]


def _is_widget(type_: Any) -> bool:
    return isinstance(type_, list) or type_ in _WIDGETS


def _values(specs: dict[str, Any], inputs: dict[str, Any], prefix: str) -> list[Any]:
    """The values of the widgets, in the page's order."""
    values: list[Any] = []
    for name, (type_, *more) in specs.items():
        options = more[0] if more else {}
        if not _is_widget(type_) or options.get("forceInput"):
            continue
        value = inputs.get(prefix + name)
        if value is None or isinstance(value, Output):
            value = _default(type_, options)
        values.append(value)
        if type_ == "COMFY_DYNAMICCOMBO_V3":
            chosen = next(option for option in options["options"] if option["key"] == value)
            values += _values(chosen["inputs"].get("required", {}), inputs, f"{prefix}{name}__")
        if options.get("control_after_generate"):
            values.append("fixed")  # or the page changes the number at every run
    return values


def _default(type_: Any, options: dict[str, Any]) -> Any:
    """A widget's own default, as the page chooses it."""
    if "default" in options:
        return options["default"]
    if type_ == "COMFY_DYNAMICCOMBO_V3":
        return options["options"][0]["key"]
    if type_ == "COMBO":
        return options["options"][0]
    return type_[0] if isinstance(type_, list) else ""
