"""The picture of a block map: every source block against every target block, with the chosen pairs."""

import numpy
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..matching import BlockMap, BlockScores
from ..matching.scores import MEASURES
from .drawing import (
    BACKGROUND,
    EMPTY,
    FAINT,
    FILE,
    GRID,
    MARGIN,
    RED,
    TEXT,
    Size,
    draw_ramp,
    draw_titles,
    similarity_colour,
)
from .labels import BlockRun, block_runs, draw_columns

_UNSCORED, _GRID, _CHOSEN = EMPTY, GRID, RED
_LARGEST = 1100  # pixels of the longer side of the table
_CELLS = (5, 26)  # smallest and largest side of a cell in pixels
_ABOVE = 400  # pixels above the table while it is drawn: more than any header needs


def block_map_picture(
    scores: BlockScores, chosen: BlockMap, source: str, target: str, size: Size = FILE
) -> numpy.ndarray:
    """Draw all scores as uint8 (height, width, 3): source blocks in rows, target blocks in columns, in model order.

    Blocks of different kinds have no score. Chosen pairs have a frame.
    """
    table = scores.table()
    rows, columns = (block_runs(block.name for block in blocks) for blocks in (scores.sources, scores.targets))
    left = MARGIN + _longest(rows, size)
    largest = min(_LARGEST, size.width - left - MARGIN)
    cell = max(_CELLS[0], min(_CELLS[1], largest // max(1, *table.shape)))
    width = max(left + cell * table.shape[1] + MARGIN, size.width)
    picture = Image.new("RGB", (width, _ABOVE + cell * table.shape[0] + 8 * size.label), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    top = _draw_header(draw, scores, chosen, (source, target), size, width) + 2 * size.label
    _draw_cells(draw, table, left, top, cell)
    _draw_runs(draw, rows, columns, (left, top), cell, table, size)
    _draw_chosen(draw, scores, chosen, left, top, cell)
    bottom = _draw_legend(draw, top + cell * table.shape[0] + size.label, scores, size)
    return numpy.asarray(picture.crop((0, 0, width, bottom + MARGIN)))


def _draw_header(
    draw: ImageDraw.ImageDraw, scores: BlockScores, chosen: BlockMap, bases: tuple[str, str], size: Size, width: int
) -> int:
    fed = [match for match in chosen.matches if match.source]
    renamed = sum(match.source != match.target for match in fed)
    lines = (
        f"{len(scores.sources)} source blocks (rows), {len(scores.targets)} target blocks (columns)",
        f"{len(fed)} have a source block ({renamed} of another name), {len(chosen.unused_blocks)} source blocks unused",
    )
    return draw_titles(draw, size, "Which block feeds which", bases, lines, width)


def _draw_cells(draw: ImageDraw.ImageDraw, table: Tensor, left: int, top: int, cell: int) -> None:
    gap = 1 if cell > 6 else 0
    draw.rectangle((left, top, left + cell * table.shape[1], top + cell * table.shape[0]), _UNSCORED)
    for row in range(table.shape[0]):
        for column in range(table.shape[1]):
            score = float(table[row, column])
            if score == score:  # not NaN
                x, y = left + column * cell, top + row * cell
                draw.rectangle((x, y, x + cell - 1 - gap, y + cell - 1 - gap), similarity_colour(score))


def _draw_runs(
    draw: ImageDraw.ImageDraw,
    rows: list[BlockRun],
    columns: list[BlockRun],
    corner: tuple[int, int],
    cell: int,
    table: Tensor,
    size: Size,
) -> None:
    """Draw lines between the runs, and their names; a name that would overlap the previous name is left out."""
    font = ImageFont.load_default(size.label)
    (left, top), (height, width) = corner, (cell * length for length in table.shape)
    label_end = 0.0
    for run in rows:
        y, middle = top + run.start * cell, top + (run.start + run.count / 2) * cell
        draw.line((left - 6 if run.count > 1 else left, y, left + width, y), _GRID)
        if middle - size.label / 2 >= label_end:
            draw.text((left - 10, middle), run.label, TEXT if run.count > 1 else FAINT, font, anchor="rm")
            label_end = middle + size.label / 2
    for run in columns:
        x = left + run.start * cell
        draw.line((x, top - 6 if run.count > 1 else top, x, top + height), _GRID)
    draw_columns(draw, columns, left, top - 1.6 * size.label, cell, font, left + width + MARGIN)


def _draw_chosen(
    draw: ImageDraw.ImageDraw, scores: BlockScores, chosen: BlockMap, left: int, top: int, cell: int
) -> None:
    rows = {block.name: row for row, block in enumerate(scores.sources)}
    for column, match in enumerate(chosen.matches):
        if match.source is not None:
            x, y = left + column * cell, top + rows[match.source] * cell
            draw.rectangle((x - 1, y - 1, x + cell - 1, y + cell - 1), outline=_CHOSEN, width=1 if cell < 12 else 2)


def _draw_legend(draw: ImageDraw.ImageDraw, top: int, scores: BlockScores, size: Size) -> int:
    """Draw the colours and what the marks mean; returns the lower edge."""
    font, side, line = ImageFont.load_default(size.label), size.label - 4, round(1.5 * size.label)
    ramp = 8 * size.label
    draw_ramp(draw, MARGIN, top + 2, ramp, side)
    sample = "a sample of each block, which confirms the names" if scores.sampled else "a few layers of each block"
    measured = f"unrelated to equal: {MEASURES[scores.measure].label} of {sample}"
    draw.text((MARGIN + ramp + 12, top), measured if scores.kinds else "by name, not measured", FAINT, font)
    top += line
    draw.rectangle((MARGIN, top + 2, MARGIN + side, top + 2 + side), outline=_CHOSEN, width=2)
    draw.text((MARGIN + size.label + 10, top), "chosen", FAINT, font)
    left = MARGIN + size.label + 40 + int(font.getlength("chosen"))
    draw.rectangle((left, top + 2, left + side, top + 2 + side), _UNSCORED, _GRID)
    unscored = "different kinds of blocks (roles and shapes)" if scores.kinds else "not measured"
    draw.text((left + size.label + 10, top), unscored, FAINT, font)
    return top + size.label


def _longest(runs: list[BlockRun], size: Size) -> int:
    font = ImageFont.load_default(size.label)
    return int(max((font.getlength(run.label) for run in runs), default=0)) + 20
