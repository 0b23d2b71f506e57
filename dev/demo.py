"""The main job end to end: the example workflow in a real ComfyUI, and where everything that it made lies."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .client import ComfyClient, RunResult
from .paths import DEMO, EXAMPLE, HOST, SMALL_MODELS
from .server import ComfyServer, link_models
from .small_models import write_all
from .workflow import to_prompt


def main() -> int:
    write_all(SMALL_MODELS)
    link_models(SMALL_MODELS, HOST)
    print("starting ComfyUI ...", flush=True)
    with ComfyServer(Path(os.environ["LORA_TRANSFER_COMFYUI"]), HOST) as client:
        prompt = to_prompt(json.loads(EXAMPLE.read_text()), client.object_info())
        result = client.queue(prompt, _Narrator(prompt))
        if result.status != "success":
            print(
                f"The example workflow ended with {result.status}: {result.errors}. ComfyUI's log: {HOST}/comfyui.log"
            )
            return 1
        shutil.rmtree(DEMO, ignore_errors=True)
        DEMO.mkdir(parents=True)
        _collect(client, prompt, result)
    print(f"\nDone in {result.seconds:.0f} s. Look at {DEMO / 'comparison.png'} first.")
    return 0


class _Narrator:
    """Prints a line for each node as ComfyUI reaches it."""

    def __init__(self, prompt: dict[str, Any]) -> None:
        self.titles = {node: str(content["_meta"]["title"]) for node, content in prompt.items()}

    def __call__(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "executing" and event.get("node") in self.titles:
            print(f"  {self.titles[event['node']]}", flush=True)


def _collect(client: ComfyClient, prompt: dict[str, Any], result: RunResult) -> None:
    """Copy what the nodes show to DEMO, under the nodes' titles, and say where it is."""
    print()
    compared: list[tuple[str, Path]] = []
    for node, shown in sorted(result.outputs.items(), key=lambda item: int(item[0])):
        title = str(prompt[node]["_meta"]["title"])
        about_bases = prompt[node]["class_type"] == "LoraTransferSimilarity"
        for name, image in zip(_PICTURES if about_bases else (title,), shown.get("images", []), strict=False):
            path = DEMO / f"{name.lower().replace(' ', '_')}.png"
            path.write_bytes(client.view(image))
            print(f"{name if about_bases else 'Image, ' + name}: {path}")
            if not about_bases:
                compared.append((name, path))
        for text in shown.get("text", []):
            _report(text)
    _side_by_side(compared).save(DEMO / "comparison.png")
    print(f"The images side by side: {DEMO / 'comparison.png'}")


_PICTURES = ("Heatmap", "Blocks", "Depth")  # what Compute Subspace Similarity shows, in its order


def _report(text: str) -> None:
    if text.endswith(".safetensors"):
        print(f"The carried LoRA: {text}")
        return
    path = DEMO / "report.json"
    path.write_text(text)
    counts, means = json.loads(text)["counts"], json.loads(text)["means"]
    print(f"Report: {path}")
    print(
        f"  {counts['transferred']} layers transferred, {counts['copied']} copied, {counts['skipped']} skipped; "
        f"similarity {means['phi']:.2f}, above chance {means['phi_above_chance']:.2f}; "
        f"{counts['keys']} keys in the file: {counts['keys_transferred']} transferred, "
        f"{counts['keys_skipped']} skipped, {counts['keys_unread']} unread"
    )


def _side_by_side(images: list[tuple[str, Path]], side: int = 384, margin: int = 24, caption: int = 44) -> Image.Image:
    """The images in a row, each with its title above."""
    sheet = Image.new("RGB", (len(images) * (side + margin) + margin, side + margin + caption), "#202020")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(22)
    for index, (title, path) in enumerate(images):
        left = margin + index * (side + margin)
        draw.text((left, 10), title, "#e0e0e0", font)
        sheet.paste(Image.open(path).resize((side, side), Image.Resampling.LANCZOS), (left, caption))
    return sheet


if __name__ == "__main__":
    sys.exit(main())
