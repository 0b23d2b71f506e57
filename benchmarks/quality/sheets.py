"""What a person sees: the drawings of every target by every method, and what the style network says of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file
from torch import Tensor

from . import autoencoder
from .candidates import CANDIDATES
from .drawings import SIDE
from .engine import Factors
from .features import Eye
from .points import Errand
from .sampling import Sampler
from .tables import table
from .training import save, with_lora

SHOWN = 4  # held-out subjects side by side in a cell
_MARGIN, _CAPTION = 12, 150


SHEET = ("none", "copy, same names", "copy", "lora_x 0.5", "prolora 0.5", "restore", "restore_both", "trained")


def drawn(errand: Errand, folder: Path) -> dict[str, Tensor]:
    """Method -> latents (held-out subjects, 16, 8, 8): one drawing of each, the same noise for every method. Kept."""
    path = folder / f"{errand.workshop.family.name} {errand.label}.safetensors".replace(" ", "_")
    if not path.is_file():
        ways = {one.name: one.carry for one in CANDIDATES}
        trained = errand.workshop.lora(errand.lora, errand.target, errand.seed)
        known: dict[str, Factors] = {"none": {}, "trained": trained}
        save(
            {name: _drawn(errand, known[name] if name in known else ways[name](errand.journey)) for name in SHEET}, path
        )
    return {key: value.float() for key, value in load_file(path).items()}


def _drawn(errand: Errand, factors: Factors) -> Tensor:
    workshop = errand.workshop
    weights = with_lora(workshop.base(errand.target, errand.seed), factors)
    guidance = 1.0 if errand.target == "turbo" else 2.0  # its guidance is built in
    context = workshop.latents.context[workshop.latents.held_out]
    return Sampler(12, guidance).sample(workshop.family, errand.models[1], weights, context, seed=11)[0]


def real(errand: Errand) -> Tensor:
    """The held-out subjects as the LoRA's style has them."""
    latents = errand.workshop.latents
    return latents.styles[errand.style][latents.held_out, 0]


def looks(eye: Eye, errands: Sequence[Errand], folder: Path) -> str:
    """Markdown: style distance and diversity by method, mean and range over the errands of each target."""
    targets = list(dict.fromkeys(errand.target for errand in errands))
    rows: list[list[str]] = []
    for name in SHEET:
        row = [name]
        for target in targets:
            some = [errand for errand in errands if errand.target == target]
            pairs = [(drawn(errand, folder)[name], real(errand)) for errand in some]
            distances = [eye.distance(*pair) for pair in pairs]
            diversity = sum(eye.diversity(*pair) for pair in pairs) / len(pairs)
            spread = f"{min(distances):.2f} to {max(distances):.2f}"
            row.append(f"{sum(distances) / len(distances):.2f} ({spread}); {diversity:.2f}")
        rows.append(row)
    return table(["method", *targets], rows)


def sheet(decoder: Any, rows: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
    """rows: method -> target -> latents. A cell shows the first few subjects, which are the same everywhere."""
    columns = list(next(iter(rows.values())))
    cell = SHOWN * SIDE
    wide, high = _CAPTION + len(columns) * (cell + _MARGIN), 40 + len(rows) * (SIDE + _MARGIN)
    picture = Image.new("RGB", (wide + _MARGIN, high), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    for place, name in enumerate(columns):
        draw.text((_CAPTION + place * (cell + _MARGIN), 12), name, "black", font)
    for row, (method, cells) in enumerate(rows.items()):
        top = 40 + row * (SIDE + _MARGIN)
        draw.text((_MARGIN, top + 22), method, "black", font)
        for place, name in enumerate(columns):
            if name in cells:
                picture.paste(_strip(decoder, cells[name]), (_CAPTION + place * (cell + _MARGIN), top))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def _strip(decoder: Any, latents: Tensor) -> Image.Image:
    chosen = _spread(latents, SHOWN)
    images = autoencoder.decode(decoder, latents[chosen])
    row = torch.cat(list(images), 2)  # (3, 64, n * 64)
    pixels = (row.permute(1, 2, 0) * 255).round().byte().numpy()
    return Image.fromarray(pixels)


def _spread(latents: Sequence[Any] | Tensor, count: int) -> list[int]:
    """Subjects of several kinds: faces, a cat, a heart."""
    return [index * len(latents) // count for index in range(count)]
