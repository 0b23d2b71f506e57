"""The picture of a library run: a row for each file, with its verdict, what was transferred, and where."""

from collections.abc import Sequence

import numpy
from PIL import Image, ImageDraw, ImageFont

from ..library.entry import Entry
from .drawing import BACKGROUND, FAINT, GREEN, LINE, MARGIN, ORANGE, RED, TEXT, cut_end, fit

_WIDTH, _ROW, _TOP = 1024, 34, 84  # pixels
_MOST_ROWS = 40
_BAR = 5  # pixels of a part of the model
_COLOURS = {"works": GREEN, "risky": ORANGE, "refuse": RED}


def library_picture(entries: Sequence[Entry], source: str, target: str) -> numpy.ndarray:
    """Draw entries as uint8 (height, width, 3): the first 40, those without a result first, for they need a look."""
    order = sorted(entries, key=lambda entry: entry.outcome == "transferred")
    rows, rest = order[:_MOST_ROWS], len(order) - _MOST_ROWS
    picture = Image.new("RGB", (_WIDTH, _TOP + _ROW * (len(rows) + (rest > 0)) + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    done = sum(entry.outcome == "transferred" for entry in entries)
    draw.text((MARGIN, 14), f"{done} of {len(entries)} LoRAs transferred", TEXT, ImageFont.load_default(30))
    names = fit(f"{source} to {target}", ImageFont.load_default(20), _WIDTH - 2 * MARGIN)
    draw.text((MARGIN, 50), names, FAINT, ImageFont.load_default(20))
    for index, entry in enumerate(rows):
        _draw_row(draw, _TOP + index * _ROW, entry)
    if rest > 0:
        draw.text((MARGIN, _TOP + _ROW * len(rows) + 4), f"and {rest} more", FAINT, ImageFont.load_default(20))
    return numpy.asarray(picture)


def _draw_row(draw: ImageDraw.ImageDraw, top: int, entry: Entry) -> None:
    font = ImageFont.load_default(20)
    draw.line((MARGIN, top, _WIDTH - MARGIN, top), LINE)
    draw.text((MARGIN, top + 5), fit(entry.lora, font, 400), TEXT, font)
    if entry.outcome != "transferred":
        why = cut_end(f"{entry.outcome}: {_without_name(entry)}", font, _WIDTH - MARGIN - 450)
        draw.text((450, top + 5), why, RED, font)
        return
    word = entry.verdict or ""
    draw.text((450, top + 5), word, _COLOURS.get(word, TEXT), font)
    draw.text((540, top + 5), "" if entry.lost is None else f"{1 - entry.lost:.0%}", TEXT, font)
    for part, sign in enumerate(entry.strip):
        if sign.isdecimal():
            height = 4 + 2 * int(sign)
            left = 620 + part * (_BAR + 2)
            draw.rectangle((left, top + 28 - height, left + _BAR, top + 28), GREEN)


def _without_name(entry: Entry) -> str:
    """The reason without the file's name at its beginning, which stands in the row already."""
    head, _, rest = entry.reason.partition(f"{entry.lora}: ")
    return rest if rest and head.startswith(("File ", "LoRA ")) else entry.reason
