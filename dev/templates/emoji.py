"""The templates with the emoji models in place of the example names: for their pictures, and for the tests of the page.

The emoji models have no text encoder: prompts come from the demo's node, and a LoRA acts on the model alone."""

import copy
from typing import Any

from ..paths import DEMO_PICTURES
from . import names
from .graph import DEMO, SIZES

PROMPTS = "slightly smiling face\nface with open mouth\nface with tongue"
TEACHER_PROMPTS = """grinning face with big eyes
beaming face with smiling eyes
winking face
smiling face with halo
star-struck
kissing face
zany face
face with raised eyebrow
smirking face
relieved face
sleeping face
cowboy hat face"""
SOURCE, TARGET, PRUNED = (f"emoji_{name}.safetensors" for name in ("source", "target", "pruned"))
VAE = "emoji_vae.safetensors"

_NAMES = {
    names.SOURCE: SOURCE,
    names.FINE_TUNE: TARGET,
    names.QUANTISED: TARGET,
    names.PRUNED: PRUNED,
    names.TURBO: PRUNED,
    names.LORA: "emoji_line_art.safetensors",
    f"checkpoints/{names.SOURCE}": f"diffusion_models/{SOURCE}",
    f"checkpoints/{names.FINE_TUNE}": f"diffusion_models/{TARGET}",
    names.PICTURES: DEMO_PICTURES.name,
    names.PROMPT: PROMPTS,
    names.NEGATIVE: "",
    "auto": f"diffusion_models/{SOURCE}",
}
_SIZE = 64  # pixels
_SIZE_PLACE = {"LoraTransferCheck": 5, "LoraTransferRefine": 4}  # among the values of the node's widgets
_LATENT = [_SIZE, _SIZE, len(PROMPTS.splitlines())]
_SAMPLING = [7, "fixed", 20, 4.0, "euler", "simple", 1.0]
_ENCODER, _DATASET = f"{DEMO}EmojiPrompts", "MakeTrainingDataset"
_BATCH_PLACE = 6  # among the values of Train LoRA-X's widgets

Workflow = dict[str, Any]


def with_emoji_models(workflow: Workflow) -> Workflow:
    """Replaces checkpoints, text encoders and prompts. The ids of nodes stay; a VAE loader is added."""
    workflow = copy.deepcopy(workflow)
    vae = workflow["last_node_id"] + 1
    for node in workflow["nodes"]:
        node["widgets_values"] = [_NAMES.get(value, value) for value in node["widgets_values"]]
        if node["type"] in _SIZE_PLACE:  # 0 would be Flux's own size
            node["widgets_values"][_SIZE_PLACE[node["type"]]] = _SIZE
        _REPLACE.get(node["type"], _keep)(node)
    _rewire(workflow, vae)
    workflow["nodes"].append(_loader(workflow, vae, "VAE", "VAELoader", [VAE]))
    workflow["last_node_id"] = vae
    if any(node["type"] == _DATASET for node in workflow["nodes"]):
        workflow["nodes"].append(_loader(workflow, vae + 1, "CLIP", f"{DEMO}EmojiClip", []))
        workflow["last_node_id"] = vae + 1
    return workflow


def _keep(_: dict[str, Any]) -> None:
    pass


def _load_model_alone(node: dict[str, Any]) -> None:
    node |= {"type": "UNETLoader", "widgets_values": [*node["widgets_values"], "default"]}
    node["properties"] = {"Node name for S&R": "UNETLoader"}


def _encode_emoji(node: dict[str, Any]) -> None:
    if node["type"] == "LoraTransferPrompts":
        node["widgets_values"] = [TEACHER_PROMPTS]
    node |= {"type": _ENCODER, "properties": {"Node name for S&R": _ENCODER}}
    for slot in node["inputs"]:
        if slot["name"] == "text":
            slot |= {"name": "names", "widget": {"name": "names"}}


def _train_quickly(node: dict[str, Any]) -> None:
    """Steps that take a minute; more noised pictures in each, because these models are small."""
    node["widgets_values"][1:3] = 200, 16
    node["widgets_values"][_BATCH_PLACE] = 16


def _set(values: list[Any]) -> Any:
    return lambda node: node.update(widgets_values=list(values))


_REPLACE = {
    "CheckpointLoaderSimple": _load_model_alone,
    "CLIPTextEncode": _encode_emoji,
    "LoraTransferPrompts": _encode_emoji,
    "EmptyLatentImage": _set(_LATENT),
    "KSampler": _set(_SAMPLING),
    "LoraTransferTrain": _train_quickly,
    "PrimitiveInt": _set([20, "fixed"]),
    "PrimitiveStringMultiline": _set([PROMPTS]),
}


def _rewire(workflow: Workflow, vae: int) -> None:
    """Takes away the links of text encoders, and lets every VAE come from the new loader."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link in workflow["links"]:
        if link[5] == "VAE":
            link[1:3] = vae, 0
        elif link[5] == "CLIP" and nodes[link[3]]["type"] == _DATASET:
            link[1:3] = vae + 1, 0
        elif link[5] == "CONDITIONING" and nodes[link[1]]["type"] != _DATASET:
            link[2] = 0
    kept = [link for link in workflow["links"] if link[1] > vae or not _is_gone(nodes[link[3]], link)]
    workflow["links"] = kept
    numbers = {link[0] for link in kept}
    for node in workflow["nodes"]:
        encodes = node["type"] == _ENCODER
        node["inputs"] = [slot for slot in node["inputs"] if not encodes or slot["name"] == "names"]
        for slot in node["inputs"]:
            slot["link"] = slot["link"] if slot["link"] in numbers else None
        outputs = node["outputs"][:1] if encodes or node["type"] == "UNETLoader" else node["outputs"]
        node["outputs"] = [
            {**slot, "links": [link[0] for link in kept if link[1:3] == [node["id"], index]]}
            for index, slot in enumerate(outputs)
        ]
    for link in kept:
        link[4] = next(index for index, slot in enumerate(nodes[link[3]]["inputs"]) if slot["link"] == link[0])


def _is_gone(node: dict[str, Any], link: list[Any]) -> bool:
    """Whether a link ends at an input that the replaced node does not have."""
    return link[5] == "CLIP" or (node["type"] == _ENCODER and link[5] != "STRING")


def _loader(workflow: Workflow, number: int, socket: str, kind: str, values: list[Any]) -> dict[str, Any]:
    """A node that loads a VAE or a CLIP for the whole workflow."""
    links = [link[0] for link in workflow["links"] if link[1] == number]
    bottom = max(node["pos"][1] + node["size"][1] for node in workflow["nodes"])
    return {
        "id": number,
        "type": kind,
        "pos": [0, bottom + 100],
        "size": list(SIZES["CheckpointLoaderSimple"]),
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [{"name": socket, "type": socket, "links": links}],
        "properties": {"Node name for S&R": kind},
        "widgets_values": values,
    }
