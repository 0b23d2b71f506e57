"""Turns a workflow, as the page saves it, into a prompt for POST /prompt."""

from typing import Any

UNSEEN = ("Note", "MarkdownNote")  # nodes that exist only on the page
UNSAVED = {"IMAGECOMPARE": {"__value__": ["", ""]}}  # type -> value of a widget that the page does not save
ALWAYS = 0  # LiteGraph's mode of nodes that are neither muted nor bypassed


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """The prompt of a workflow's active nodes. `object_info` is the server's description of its nodes."""
    sources = {link[0]: (str(link[1]), link[2]) for link in workflow["links"]}  # id, node, slot, node, slot, type
    active = [node for node in workflow["nodes"] if node["type"] not in UNSEEN and node.get("mode", 0) == ALWAYS]
    return {
        str(node["id"]): {
            "class_type": node["type"],
            "inputs": {**widget_inputs(node, object_info[node["type"]]), **_linked(node, sources)},
            "_meta": {"title": node.get("title") or object_info[node["type"]]["display_name"]},
        }
        for node in active
    }


def widget_inputs(node: dict[str, Any], description: dict[str, Any]) -> dict[str, Any]:
    """A node's widget values by input name, from the list that the page saves."""
    values = list(node.get("widgets_values") or [])
    return dict(_take_widgets(values, description["input"], ""))


def _take_widgets(values: list[Any], inputs: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    """Takes the values of these inputs' widgets from the front of `values`, in the page's order: (name, value)."""
    taken: list[tuple[str, Any]] = []
    for name, (kind, *more) in [*inputs.get("required", {}).items(), *inputs.get("optional", {}).items()]:
        options = more[0] if more else {}
        if isinstance(kind, str) and kind in UNSAVED:
            taken.append((prefix + name, UNSAVED[kind]))
        if not values or not _has_widget(kind, options):
            continue
        value = values.pop(0)
        taken.append((prefix + name, value))
        if kind == "COMFY_DYNAMICCOMBO_V3":  # the selected option has its own inputs, as `combo.input`
            chosen = next(option for option in options["options"] if option["key"] == value)
            taken += _take_widgets(values, chosen["inputs"], f"{prefix}{name}.")
        if options.get("control_after_generate") and values:
            values.pop(0)  # the page's "fixed" or "randomize", which the server does not get
    return taken


def _has_widget(kind: Any, options: dict[str, Any]) -> bool:
    simple = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
    return not options.get("forceInput") and (isinstance(kind, list) or kind in simple)


def _linked(node: dict[str, Any], sources: dict[int, tuple[str, int]]) -> dict[str, list[Any]]:
    return {
        slot["name"]: list(sources[slot["link"]])
        for slot in node.get("inputs", [])
        if slot.get("link") is not None and slot["link"] in sources
    }
