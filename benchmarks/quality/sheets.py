"""Contact sheets with drawings of every target by every method, and the style network's figures on them."""

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
from .features import StyleNetwork
from .points import Measurement
from .sampling import Sampler
from .tables import table
from .training import save, with_lora

SHOWN = 4  # held-out subjects side by side in a cell
_MARGIN, _CAPTION = 12, 150


SHEET = ("none", "copy, same names", "copy", "lora_x 0.5", "prolora 0.5", "restore", "restore_both", "trained")


def draw_all(measurement: Measurement, folder: Path) -> dict[str, Tensor]:
    """Reads or makes one drawing of each held-out subject by every method: method -> latents (subjects, 16, 8, 8). The
    noise is the same for every method."""
    path = folder / f"{measurement.store.family.name} {measurement.label}.safetensors".replace(" ", "_")
    if not path.is_file():
        transfers = {candidate.name: candidate.transfer for candidate in CANDIDATES}
        trained = measurement.store.lora(measurement.lora, measurement.target, measurement.seed)
        known: dict[str, Factors] = {"none": {}, "trained": trained}
        save(
            {
                name: _draw(measurement, known[name] if name in known else transfers[name](measurement.job))
                for name in SHEET
            },
            path,
        )
    return {key: value.float() for key, value in load_file(path).items()}


def _draw(measurement: Measurement, factors: Factors) -> Tensor:
    store = measurement.store
    weights = with_lora(store.base(measurement.target, measurement.seed), factors)
    guidance = 1.0 if measurement.target == "turbo" else 2.0  # turbo has its guidance built in
    context = store.latents.context[store.latents.held_out]
    return Sampler(12, guidance).sample(store.family, measurement.models[1], weights, context, seed=11)[0]


def real_drawings(measurement: Measurement) -> Tensor:
    """Latents of the real drawings of the held-out subjects in the LoRA's style."""
    latents = measurement.store.latents
    return latents.styles[measurement.style][latents.held_out, 0]


def style_table(network: StyleNetwork, measurements: Sequence[Measurement], folder: Path) -> str:
    """A Markdown table of style distance and diversity by method: mean and range over each target's measurements."""
    targets = list(dict.fromkeys(measurement.target for measurement in measurements))
    rows: list[list[str]] = []
    for name in SHEET:
        row = [name]
        for target in targets:
            of_target = [measurement for measurement in measurements if measurement.target == target]
            pairs = [(draw_all(measurement, folder)[name], real_drawings(measurement)) for measurement in of_target]
            distances = [network.distance(*pair) for pair in pairs]
            diversity = sum(network.diversity(*pair) for pair in pairs) / len(pairs)
            spread = f"{min(distances):.2f} to {max(distances):.2f}"
            row.append(f"{sum(distances) / len(distances):.2f} ({spread}); {diversity:.2f}")
        rows.append(row)
    return table(["method", *targets], rows)


def write_sheet(decoder: Any, rows: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
    """Writes a contact sheet. rows: method -> target -> latents. Every cell shows the same few subjects."""
    columns = list(next(iter(rows.values())))
    cell = SHOWN * SIDE
    wide, high = _CAPTION + len(columns) * (cell + _MARGIN), 40 + len(rows) * (SIDE + _MARGIN)
    picture = Image.new("RGB", (wide + _MARGIN, high), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    for column, name in enumerate(columns):
        draw.text((_CAPTION + column * (cell + _MARGIN), 12), name, "black", font)
    for row, (method, cells) in enumerate(rows.items()):
        top = 40 + row * (SIDE + _MARGIN)
        draw.text((_MARGIN, top + 22), method, "black", font)
        for column, name in enumerate(columns):
            if name in cells:
                picture.paste(_strip(decoder, cells[name]), (_CAPTION + column * (cell + _MARGIN), top))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def _strip(decoder: Any, latents: Tensor) -> Image.Image:
    shown = _pick_evenly(latents, SHOWN)
    images = autoencoder.decode(decoder, latents[shown])
    row = torch.cat(list(images), 2)  # (3, 64, n * 64)
    pixels = (row.permute(1, 2, 0) * 255).round().byte().numpy()
    return Image.fromarray(pixels)


def _pick_evenly(latents: Sequence[Any] | Tensor, count: int) -> list[int]:
    """Evenly spaced subjects, so that a sheet shows several kinds: faces, a cat, a heart."""
    return [index * len(latents) // count for index in range(count)]
