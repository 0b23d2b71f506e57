"""Draws the templates' pictures: each template is run with the emoji models, and its two pictures are shown."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..client import ComfyClient
from ..workflow import to_prompt
from .emoji import with_emoji_models

SIDE = 640  # pixels; the template browser shows squares
GROUND, TEXT, QUIET = "#15181f", "#f2f4f8", "#9aa4b5"
_PICTURE, _MARGIN, _HEAD, _CAPTION = 200, 10, 84, 34  # pixels

# Template -> heading.
HEADINGS = {
    "Use an SDXL LoRA on a fine-tune": "Your LoRA on a fine-tune",
    "Use an SDXL LoRA on a pruned model (SSD-1B)": "Your LoRA on a pruned model",
    "Use an SDXL LoRA on a quantised model": "Your LoRA on a quantised model",
    "Check a transfer and find the best strength": "How well does it work?",
    "Refine a LoRA on a turbo model": "Better by a short training",
    "Train a LoRA-X and use it on two relatives": "Train once, use it on relatives",
}
# The template that only saves a file, its heading, and the template whose pictures it shows.
SAVED = "Save for other programs", "line_art_for_target.safetensors", "Use an SDXL LoRA on a fine-tune"


def draw_thumbnails(client: ComfyClient, folder: Path) -> None:
    object_info = client.object_info()
    for name, heading in HEADINGS.items():
        workflow = with_emoji_models(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
        prompt = to_prompt(workflow, object_info)
        result = client.queue(prompt)
        if result.status != "success":
            raise RuntimeError(f"{name} ended with {result.status}: {result.errors}")
        key = next(key for key, content in prompt.items() if content["class_type"] == "ImageCompare")
        captions = prompt[key]["_meta"]["title"].split(" | ")
        shown = result.outputs[key]
        rows = [[client.view(image) for image in shown[side]] for side in ("a_images", "b_images")]
        _save(_sheet(heading, captions, rows), folder / f"{name}.jpg")
        if name == SAVED[2]:
            _save(_sheet(SAVED[1], captions, rows), folder / f"{SAVED[0]}.jpg")


def _sheet(heading: str, captions: Sequence[str], rows: Sequence[Sequence[bytes]]) -> Image.Image:
    """A heading, and below it rows of pictures, each with a caption above."""
    sheet = Image.new("RGB", (SIDE, SIDE), GROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((SIDE // 2, _HEAD // 2 + 4), heading, TEXT, ImageFont.load_default(36), anchor="mm")
    for row, (caption, images) in enumerate(zip(captions, rows, strict=True)):
        top = _HEAD + row * (_CAPTION + _PICTURE + _MARGIN)
        draw.text((_MARGIN + 4, top + _CAPTION // 2), caption, TEXT, ImageFont.load_default(24), anchor="lm")
        for column, image in enumerate(images):
            picture = (
                Image.open(io.BytesIO(image)).convert("RGB").resize((_PICTURE, _PICTURE), Image.Resampling.LANCZOS)
            )
            sheet.paste(picture, (_MARGIN + column * (_PICTURE + _MARGIN), top + _CAPTION))
    note = "Drawn by small models that were trained on emoji"
    draw.text((SIDE // 2, SIDE - 34), note, QUIET, ImageFont.load_default(20), anchor="mm")
    return sheet


def _save(sheet: Image.Image, path: Path) -> None:
    sheet.save(path, quality=88)
    print(path, flush=True)
