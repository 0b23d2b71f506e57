"""What a person sees: the drawings of every target by every method, and what the style network says of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from . import autoencoder
from .engine import Factors
from .features import Eye
from .points import Errand
from .sampling import Sampler
from .training import with_lora

SHOWN = 4  # held-out subjects side by side in a cell
_MARGIN, _CAPTION, _SCALE = 12, 150, 1


def drawn(errand: Errand, factors: Factors) -> Tensor:
    """Latents (held-out subjects, 16, 8, 8): one drawing of each, the same noise for every method."""
    workshop = errand.workshop
    weights = with_lora(workshop.base(errand.target, errand.seed), factors)
    guidance = 1.0 if errand.target == "turbo" else 2.0  # its guidance is built in
    context = workshop.latents.context[workshop.latents.held_out]
    return Sampler(12, guidance).sample(workshop.family, errand.models[1], weights, context, seed=11)[0]


def looks(errand: Errand, eye: Eye, latents: Tensor) -> dict[str, float]:
    """style distance and share, and diversity, against the real held-out drawings of the LoRA's style."""
    real = errand.workshop.latents.styles[errand.style][errand.workshop.latents.held_out, 0]
    return {
        "style distance": eye.distance(latents, real),
        "taken for the style": eye.style_share(latents, errand.style),
        "diversity": eye.diversity(latents, real),
    }


def sheet(decoder: Any, rows: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
    """rows: method -> target -> latents. A cell shows the first few subjects, which are the same everywhere."""
    columns = list(next(iter(rows.values())))
    cell = SHOWN * autoencoder.SIDE * _SCALE
    wide, high = _CAPTION + len(columns) * (cell + _MARGIN), 40 + len(rows) * (autoencoder.SIDE * _SCALE + _MARGIN)
    picture = Image.new("RGB", (wide + _MARGIN, high), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    for place, name in enumerate(columns):
        draw.text((_CAPTION + place * (cell + _MARGIN), 12), name, "black", font)
    for row, (method, cells) in enumerate(rows.items()):
        top = 40 + row * (autoencoder.SIDE * _SCALE + _MARGIN)
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
    return Image.fromarray(pixels).resize((row.shape[2] * _SCALE, row.shape[1] * _SCALE), Image.Resampling.LANCZOS)


def _spread(latents: Sequence[Any] | Tensor, count: int) -> list[int]:
    """Subjects of several kinds: faces, a cat, a heart."""
    return [index * len(latents) // count for index in range(count)]
