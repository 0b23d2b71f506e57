"""The part of the nodes' schema that saved workflows and prompts depend on, and what would break them.

A saved workflow holds the values of a node's widgets as a list without names, in the page's order: required inputs
first, then optional ones. Links to inputs are found by the input's name, links from outputs by position. A prompt holds
all inputs by name and outputs by position.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Described = dict[str, Any]

_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
_MODEL_FILES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")


def describe(node: Mapping[str, Any]) -> Described:
    """A node of ComfyUI's /object_info without texts and lists of files."""
    return {
        "name": node["display_name"],
        "runs_alone": node["output_node"],
        "inputs": _describe_inputs(node["input"]),
        "outputs": [f"{name}: {kind}" for name, kind in zip(node["output_name"], node["output"], strict=True)],
    }


def dump(schema: Mapping[str, Described]) -> str:
    """As JSON with an input in each line, so that a diff shows what changed."""
    nodes: list[str] = []
    for node_id, node in schema.items():
        inputs = ",\n".join(f"   {json.dumps(item)}" for item in node["inputs"])
        rest = {key: node[key] for key in ("name", "runs_alone", "outputs")}
        nodes.append(f' "{node_id}": {{\n  "inputs": [\n{inputs}\n  ],\n  {json.dumps(rest)[1:]}')
    return "{\n" + ",\n".join(nodes) + "\n}\n"


def find_breaks(old: Mapping[str, Described], new: Mapping[str, Described]) -> list[str]:
    """What would break workflows and prompts that were saved with the old schema: a sentence for each change."""
    breaks: list[str] = []
    for node_id, node in old.items():
        if node_id in new:
            breaks += [f"{node_id}: {change}" for change in _break_node(node, new[node_id])]
        else:
            breaks.append(f"{node_id}: the node is gone")
    return breaks


def _describe_inputs(inputs: Mapping[str, Any]) -> list[Described]:
    return [
        _describe_input(name, kind, more[0] if more else {}, section == "required")
        for section in ("required", "optional")
        for name, (kind, *more) in inputs.get(section, {}).items()
    ]


def _describe_input(name: str, kind: str, options: Mapping[str, Any], required: bool) -> Described:
    described: Described = {"id": name, "type": kind, "required": required}
    described |= {key: options[key] for key in ("default", "min", "max") if key in options}
    if options.get("control_after_generate"):
        described["control_after_generate"] = True
    if kind == "COMFY_DYNAMICCOMBO_V3":
        described["options"] = {option["key"]: _describe_inputs(option["inputs"]) for option in options["options"]}
    elif "options" in options:
        described["options"] = [option for option in options["options"] if not option.endswith(_MODEL_FILES)]
    if template := options.get("template"):
        described["grows"] = {"of": _describe_inputs(template["input"]), "prefix": template.get("prefix")}
        described["max"] = template.get("max")
    return described


def _break_node(old: Described, new: Described) -> Iterator[str]:
    if old["runs_alone"] and not new["runs_alone"]:
        yield "it no longer runs without a node behind it"
    yield from _break_inputs(old["inputs"], new["inputs"])
    for index, output in enumerate(old["outputs"]):
        at_index = new["outputs"][index] if index < len(new["outputs"]) else "nothing"
        if at_index != output:
            yield f"output {index} was {output}, is {at_index}"


def _break_inputs(old: Sequence[Described], new: Sequence[Described]) -> Iterator[str]:
    before, after = {item["id"]: item for item in old}, {item["id"]: item for item in new}
    for name, item in before.items():
        if name in after:
            yield from (f"input {name}: {change}" for change in _break_input(item, after[name]))
        else:
            yield f"input {name} is gone"
    yield from (f"input {name} is new and required" for name in after if name not in before and after[name]["required"])
    if [name for name in before if name in after] != [name for name in after if name in before]:
        yield f"the inputs have another order: {', '.join(after)}"
    if (widgets := _widgets(new))[: len(_widgets(old))] != _widgets(old):
        yield f"values saved by position land on other inputs: {', '.join(_widgets(old))} became {', '.join(widgets)}"


def _widgets(inputs: Sequence[Described]) -> list[str]:
    """The names of the widgets in the order in which the page saves their values."""
    names: list[str] = []
    for item in inputs:
        if item["type"] in _WIDGETS:
            names.append(item["id"])
        if item.get("control_after_generate"):
            names.append(f"{item['id']} (after a run)")
    return names


def _break_input(old: Described, new: Described) -> Iterator[str]:
    if old["type"] != new["type"]:
        yield f"its type was {old['type']}, is {new['type']}"
        return
    if new["required"] and not old["required"]:
        yield "it was optional, is required"
    if narrower := [bound for bound in ("min", "max") if bound in new and _is_narrower(bound, old, new)]:
        yield f"{narrower[0]} was {old.get(narrower[0])}, is {new[narrower[0]]}"
    if lost := [option for option in old.get("options", ()) if option not in new.get("options", ())]:
        yield f"lost the option {', '.join(lost)}"
    elif isinstance(old.get("options"), dict):
        for option, inputs in old["options"].items():
            yield from (f"option {option}: {change}" for change in _break_inputs(inputs, new["options"][option]))
    if old.get("grows") != new.get("grows"):
        yield f"its sockets were {old.get('grows')}, are {new.get('grows')}"


def _is_narrower(bound: str, old: Described, new: Described) -> bool:
    if old.get(bound) is None or new[bound] is None:
        return new[bound] is not None
    return new[bound] > old[bound] if bound == "min" else new[bound] < old[bound]
