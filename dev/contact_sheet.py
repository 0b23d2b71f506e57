"""Draws rows of small images on a sheet, with captions."""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SIDE, MARGIN, BAND, TOP, LEFT = 192, 8, 18, 56, 210  # pixels; BAND separates the rows of different bases
GROUND, TEXT, QUIET = "#202020", "#f0f0f0", "#b0b0b0"


@dataclass(frozen=True)
class Row:
    """A row: its title as "base: treatment", and encoded images."""

    title: str
    images: Sequence[bytes]


def contact_sheet(rows: Sequence[Row], columns: Sequence[str]) -> Image.Image:
    """Draws the rows below each other. Each image is SIDE pixels wide, and each column has a caption."""
    bases = [row.title.split(": ")[0] for row in rows]
    gaps = [BAND if index and bases[index - 1] != base else 0 for index, base in enumerate(bases)]
    size = (LEFT + len(columns) * (SIDE + MARGIN), TOP + len(rows) * (SIDE + MARGIN) + sum(gaps))
    sheet = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(sheet)
    small, large = ImageFont.load_default(17), ImageFont.load_default(20)
    for index, caption in enumerate(columns):
        draw.multiline_text((LEFT + index * (SIDE + MARGIN), 8), textwrap.fill(caption, 21), QUIET, small)
    top = TOP
    for row, gap in zip(rows, gaps, strict=True):
        top += gap
        base, _, treatment = row.title.partition(": ")
        draw.multiline_text((MARGIN, top + SIDE // 2 - 30), f"{base}\n{textwrap.fill(treatment, 18)}", TEXT, large)
        for index, image in enumerate(row.images):
            drawing = Image.open(io.BytesIO(image)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(drawing, (LEFT + index * (SIDE + MARGIN), top))
        top += SIDE + MARGIN
    return sheet
