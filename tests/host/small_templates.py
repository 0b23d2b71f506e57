"""The templates with the small models in place of the example names, and short runs."""

import copy
from typing import Any

from dev.paths import DEMO_PICTURES
from dev.templates import names

_NAMES = {
    names.SOURCE: "small_source.safetensors",
    f"checkpoints/{names.SOURCE}": "checkpoints/small_source.safetensors",
    f"checkpoints/{names.FINE_TUNE}": "checkpoints/small_target.safetensors",
    names.LORA: "small_lora.safetensors",
    **dict.fromkeys((names.FINE_TUNE, names.PRUNED, names.QUANTISED, names.TURBO), "small_target.safetensors"),
    names.PICTURES: DEMO_PICTURES.name,
    names.SIZE: 64,
    "auto": "checkpoints/small_source.safetensors",
}
# (type of node, place of the widget) -> a value that keeps a run short.
_SHORT = {
    ("KSampler", 2): 2,
    ("PrimitiveInt", 0): 2,
    ("LoraTransferSimilarity", 0): "weight_cosine",
    ("LoraTransferPrompts", 1): 3,
    ("LoraTransferRefine", 0): 2,  # steps
    ("LoraTransferRefine", 1): 4,  # samples
    ("LoraTransferRefine", 4): 64,  # size
    ("LoraTransferRefine", 7): 2,  # batch
    ("LoraTransferTrain", 1): 2,  # steps
    ("LoraTransferTrain", 2): 2,  # rank
    ("LoraTransferTrain", 6): 2,  # batch
    ("LoraTransferCheck", 3): 1,  # seeds
    ("LoraTransferCheck", 4): 2,  # timesteps
    ("LoraTransferCheck", 5): 64,  # size
}


def with_small_models(workflow: dict[str, Any]) -> dict[str, Any]:
    workflow = copy.deepcopy(workflow)
    for node in workflow["nodes"]:
        node["widgets_values"] = [_NAMES.get(value, value) for value in node["widgets_values"]]
    return keep_short(workflow)


def keep_short(workflow: dict[str, Any]) -> dict[str, Any]:
    """The workflow with values that keep its run short."""
    workflow = copy.deepcopy(workflow)
    for node in workflow["nodes"]:
        values = enumerate(node["widgets_values"])
        node["widgets_values"] = [_SHORT.get((node["type"], place), value) for place, value in values]
    return workflow
