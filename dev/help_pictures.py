"""Takes the pictures of the help pages: `.run/venv/bin/python -m dev.help_pictures`, with names of nodes for some only.

It runs every node of the pack with the emoji models in a real ComfyUI, and photographs each node in a browser, with
what the node says and shows. Look at every picture before you commit it.
"""

import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import FloatRect, Page, ViewportSize, sync_playwright

from .browser import find_browser
from .paths import DEMO_MODELS, DEMO_PICTURES, ROOT, SMALL_MODELS
from .server import ComfyServer, add_demo_nodes
from .small_models import write_all

FOLDER = ROOT / "web" / "docs" / "images"
BASE = Path(tempfile.gettempdir(), "ComfyUI")  # the pictures show this path

_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
_WINDOW: ViewportSize = {"width": 1500, "height": 1500}
_LIMIT = 300_000  # milliseconds: a limit on a busy machine, not a wait
_EDGE = 2  # pixels around a node; a badge stands above it
_WIDTH = 440  # pixels of a node: about the width of the page's help
_SETTLE = 700  # milliseconds in which a node that still grows has grown
_COLOURS = 256  # of a picture: a third of the bytes, and nothing to be seen of it

_LORA, _SOURCE, _PRUNED = "emoji_line_art.safetensors", "emoji_source.safetensors", "emoji_pruned.safetensors"
_OPEN = ["LoraTransferSimilarity"]  # the nodes that show all layers
_FACES = "winking face\nthinking face\nnerd face\nangry face"

# The name of each node -> (its type, the values of its widgets, input -> (name of a node, number of its output)).
Node = tuple[str, dict[str, Any], dict[str, tuple[str, int]]]
GRAPH: dict[str, Node] = {
    "source model": ("UNETLoader", {"unet_name": _SOURCE}, {}),
    "pruned model": ("UNETLoader", {"unet_name": _PRUNED}, {}),
    "vae": ("VAELoader", {"vae_name": "emoji_vae.safetensors"}, {}),
    "faces": ("LoraTransferDemoEmojiPrompts", {"names": _FACES}, {}),
    "checkpoint": ("CheckpointLoaderSimple", {"ckpt_name": "small_source.safetensors"}, {}),
    "LoraTransferLoader": (
        "LoraTransferLoader",
        {"lora_name": _LORA, "trained_on": f"diffusion_models/{_SOURCE}"},
        {"model": ("pruned model", 0)},
    ),
    "LoraTransferLoadSourceBase": (
        "LoraTransferLoadSourceBase",
        {"base_name": f"diffusion_models/{_SOURCE}"},
        {},
    ),
    "LoraTransferLoadTargetBase": (
        "LoraTransferLoadTargetBase",
        {"base_name": f"diffusion_models/{_PRUNED}"},
        {},
    ),
    "LoraTransferLoadLora": ("LoraTransferLoadLora", {"lora_name": _LORA}, {}),
    "LoraTransferSimilarity": (
        "LoraTransferSimilarity",
        {},
        {
            "source": ("LoraTransferLoadSourceBase", 0),
            "target": ("LoraTransferLoadTargetBase", 0),
            "adapter": ("LoraTransferLoadLora", 0),
        },
    ),
    "LoraTransferProject": (
        "LoraTransferProject",
        {},
        {"similarity": ("LoraTransferSimilarity", 0), "adapter": ("LoraTransferLoadLora", 0)},
    ),
    "LoraTransferApply": (
        "LoraTransferApply",
        {},
        {"model": ("pruned model", 0), "adapter": ("LoraTransferProject", 0)},
    ),
    "LoraTransferCheck": (
        "LoraTransferCheck",
        {"search": "strength", "size": 64},
        {
            "source_model": ("source model", 0),
            "target_model": ("pruned model", 0),
            "adapter": ("LoraTransferLoadLora", 0),
            "transferred": ("LoraTransferProject", 0),
            "conditioning": ("faces", 0),
        },
    ),
    "LoraTransferPrompts": (
        "LoraTransferPrompts",
        {},
        {"adapter": ("LoraTransferLoadLora", 0), "clip": ("checkpoint", 1)},
    ),
    "LoraTransferRefine": (
        "LoraTransferRefine",
        {"steps": 40, "samples": 32, "size": 64},
        {
            "source_model": ("source model", 0),
            "target_model": ("pruned model", 0),
            "adapter": ("LoraTransferLoadLora", 0),
            "conditioning": ("faces", 0),
            "transferred": ("LoraTransferProject", 0),
            "target_vae": ("vae", 0),
        },
    ),
    "pictures": ("LoadImageTextDataSetFromFolder", {"folder": DEMO_PICTURES.name}, {}),
    "clip": ("LoraTransferDemoEmojiClip", {}, {}),
    "dataset": (
        "MakeTrainingDataset",
        {},
        {"images": ("pictures", 0), "texts": ("pictures", 1), "vae": ("vae", 0), "clip": ("clip", 0)},
    ),
    "LoraTransferTrain": (
        "LoraTransferTrain",
        {"steps": 200, "batch": 8},
        {
            "model": ("source model", 0),
            "latents": ("dataset", 0),
            "positive": ("dataset", 1),
            "vae": ("vae", 0),
        },
    ),
    "LoraTransferSave": (
        "LoraTransferSave",
        {"filename_prefix": "loras/line_art_on_pruned_child"},
        {"transferred": ("LoraTransferProject", 0)},
    ),
    "LoraTransferFolder": (
        "LoraTransferFolder",
        {},
        {"source": ("LoraTransferLoadSourceBase", 0), "target": ("LoraTransferLoadTargetBase", 0)},
    ),
    "end of prompts": ("PreviewAny", {}, {"source": ("LoraTransferPrompts", 2)}),
    "end of apply": ("PreviewAny", {}, {"source": ("LoraTransferApply", 0)}),
    "end of loader": ("PreviewAny", {}, {"source": ("LoraTransferLoader", 0)}),
}

_READY = "window.app?.graph && window.app?.canvas && Object.keys(LiteGraph.registered_node_types).length > 100"

# Runs in the page: makes the graph, with room around each node, and returns the id of each node.
_MAKE = """([nodes, width, open]) => {
  const { graph, canvas } = window.app;
  graph.clear();
  canvas.links_render_mode = LiteGraph.HIDDEN_LINK;
  const made = {};
  Object.entries(nodes).forEach(([name, [type, values]], index) => {
    const node = made[name] = LiteGraph.createNode(type);
    node.pos = [(index % 5) * 1200, Math.floor(index / 5) * 1800];
    graph.add(node);
    node.setSize([width, node.size[1]]);
    if (open.includes(type)) node.properties.lora_transfer_view = { open: true };
    for (const [key, value] of Object.entries(values)) node.widgets.find(widget => widget.name === key).value = value;
  });
  for (const [name, [, , links]] of Object.entries(nodes))
    for (const [input, [from, slot]] of Object.entries(links))
      made[from].connect(slot, made[name], made[name].findInputSlot(input));
  return Object.fromEntries(Object.entries(made).map(([name, node]) => [name, node.id]));
}"""

# Runs in the page: presses Run and waits for the end. Returns [the kind of the end, its message].
_RUN = """() => new Promise(resolve => {
  for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
    window.app.api.addEventListener(kind, ({ detail }) => resolve([kind, detail.exception_message]), { once: true });
  window.app.queuePrompt(0, 1);
})"""

# Runs in the page: brings a node to the top left. Returns its box on the screen.
_LOOK = """([id, edge]) => {
  const { canvas, graph } = window.app;
  const node = graph.getNodeById(id);
  canvas.deselectAll();
  canvas.ds.scale = 1;
  canvas.ds.offset = [110 - node.pos[0], 140 - node.pos[1]];
  canvas.setDirty(true, true);
  const [left, top, width, height] = node.getBounding();
  const screen = canvas.canvas.getBoundingClientRect();
  return {
    x: screen.left + left + canvas.ds.offset[0] - edge, y: screen.top + top + canvas.ds.offset[1] - edge,
    width: width + 2 * edge, height: height + 2 * edge,
  };
}"""


def main(chosen: list[str]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    write_all(SMALL_MODELS)
    with _comfyui() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=list(_FLAGS))
        page = browser.new_page(viewport=_WINDOW)
        page.set_default_timeout(_LIMIT)
        page.goto(f"http://{address}/")
        page.wait_for_function(_READY)
        _photograph(page, chosen)
        browser.close()


@contextmanager
def _comfyui() -> Iterator[str]:
    """The address of a ComfyUI in a new folder, which is removed at the end."""
    BASE.mkdir()  # fails if it exists: it may be somebody's
    try:
        for models in (SMALL_MODELS, DEMO_MODELS):
            shutil.copytree(models, BASE / "models", dirs_exist_ok=True)
        shutil.copytree(DEMO_PICTURES, BASE / "input" / DEMO_PICTURES.name)
        add_demo_nodes(BASE)
        with ComfyServer(Path(os.environ["LORA_TRANSFER_COMFYUI"]), BASE) as client:
            yield client.address
    finally:
        shutil.rmtree(BASE)


def _photograph(page: Page, chosen: list[str]) -> None:
    ids = page.evaluate(_MAKE, [GRAPH, _WIDTH, _OPEN])
    end, message = page.evaluate(_RUN)
    if end != "execution_success":
        raise RuntimeError(f"The graph of the pictures ended with {end}: {message}")
    for node_id in ids.values():  # the page makes a node's texts and pictures when it shows the node
        page.evaluate(_LOOK, [node_id, _EDGE])
        page.wait_for_timeout(_SETTLE)
    for name, node_id in ids.items():
        if name.startswith("LoraTransfer") and (not chosen or name in chosen):
            box = _wait_for_box(page, node_id)
            picture = Image.open(io.BytesIO(page.screenshot(clip=box))).convert("RGB")
            path = FOLDER / f"{name}.png"
            picture.quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
            print(f"{path.relative_to(ROOT)}: {picture.width} x {picture.height}, {path.stat().st_size // 1000} kB")


def _wait_for_box(page: Page, node_id: int) -> FloatRect:
    """The box of a node that has stopped growing."""
    box: FloatRect = {"x": 0, "y": 0, "width": 0, "height": 0}
    for _ in range(20):
        before, box = box, page.evaluate(_LOOK, [node_id, _EDGE])
        page.wait_for_timeout(_SETTLE)
        if json.dumps(before) == json.dumps(box):
            break
    return box


if __name__ == "__main__":
    main(sys.argv[1:])
