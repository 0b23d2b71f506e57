"""The picture of a block map: every source block against every target block, with the chosen pairs."""

import numpy
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..matching import BlockMap, BlockScores
from ..matching.scores import MEASURES
from .drawing import BACKGROUND, FAINT, MARGIN, RED, TEXT, BlockRun, block_runs, shorten, similarity_colour

_UNSCORED, _GRID, _CHOSEN = "#29292e", "#4c4c55", RED
_LARGEST = 1100  # pixels of the longer side of the table: readable under a node
_CELLS = (5, 26)  # smallest and largest side of a cell in pixels
_HEADER, _FOOTER = 114, 66


def block_map_picture(scores: BlockScores, chosen: BlockMap, source: str, target: str) -> numpy.ndarray:
    """Draw all scores as uint8 (height, width, 3): source blocks in rows, target blocks in columns, in model order.

    Blocks of different kinds have no score. Chosen pairs have a frame.
    """
    table = scores.table()
    rows, columns = (block_runs(block.name for block in blocks) for blocks in (scores.sources, scores.targets))
    cell = max(_CELLS[0], min(_CELLS[1], _LARGEST // max(1, *table.shape)))
    left, top = MARGIN + _longest(rows), _HEADER + _longest(columns)
    width = max(left + cell * table.shape[1] + MARGIN, 860)
    height = top + cell * table.shape[0]
    picture = Image.new("RGB", (width, height + _FOOTER), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    _draw_header(draw, scores, chosen, source, target)
    _draw_cells(draw, table, left, top, cell)
    _draw_runs(picture, rows, columns, (left, top), cell, table)
    _draw_chosen(draw, scores, chosen, left, top, cell)
    _draw_legend(draw, height + 22, scores)
    return numpy.asarray(picture)


def _draw_header(draw: ImageDraw.ImageDraw, scores: BlockScores, chosen: BlockMap, source: str, target: str) -> None:
    fed = [match for match in chosen.matches if match.source]
    renamed = sum(match.source != match.target for match in fed)
    draw.text((MARGIN, 18), "Which block feeds which", TEXT, ImageFont.load_default(28))
    sides = f"rows: {shorten(source, 60)}, {len(scores.sources)} blocks", f"columns: {shorten(target, 60)}"
    names = f"{'    '.join(sides)}, {len(scores.targets)} blocks"
    draw.text((MARGIN, 54), names, TEXT, ImageFont.load_default(16))
    counts = f"{len(fed)} target blocks have a source block, {renamed} of them one of another name;  "
    counts += f"{len(chosen.unused_blocks)} source blocks feed no target block"
    draw.text((MARGIN, 76), counts, FAINT, ImageFont.load_default(15))


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
    picture: Image.Image,
    rows: list[BlockRun],
    columns: list[BlockRun],
    corner: tuple[int, int],
    cell: int,
    table: Tensor,
) -> None:
    """Draw lines between the runs, and their names; a name that would overlap the previous name is left out."""
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    (left, top), (height, width) = corner, (cell * length for length in table.shape)
    label_end = 0.0
    for run in rows:
        y, middle = top + run.start * cell, top + (run.start + run.count / 2) * cell
        draw.line((left - 6 if run.count > 1 else left, y, left + width, y), _GRID)
        if middle - 7 >= label_end:
            draw.text((left - 10, middle), run.label, TEXT if run.count > 1 else FAINT, font, anchor="rm")
            label_end = middle + 7
    label_end = 0.0
    for run in columns:
        x, middle = left + run.start * cell, left + (run.start + run.count / 2) * cell
        draw.line((x, top - 6 if run.count > 1 else top, x, top + height), _GRID)
        if middle - 7 >= label_end:
            label = Image.new("RGB", (top - _HEADER, 14), BACKGROUND)
            ImageDraw.Draw(label).text((0, 0), run.label, TEXT if run.count > 1 else FAINT, font)
            picture.paste(label.rotate(90, expand=True), (int(middle) - 7, _HEADER - 8))
            label_end = middle + 7


def _draw_chosen(
    draw: ImageDraw.ImageDraw, scores: BlockScores, chosen: BlockMap, left: int, top: int, cell: int
) -> None:
    rows = {block.name: row for row, block in enumerate(scores.sources)}
    for column, match in enumerate(chosen.matches):
        if match.source is not None:
            x, y = left + column * cell, top + rows[match.source] * cell
            draw.rectangle((x - 1, y - 1, x + cell - 1, y + cell - 1), outline=_CHOSEN, width=1 if cell < 12 else 2)


def _draw_legend(draw: ImageDraw.ImageDraw, top: int, scores: BlockScores) -> None:
    font, width = ImageFont.load_default(13), 220
    for step in range(width):
        draw.line((MARGIN + step, top, MARGIN + step, top + 12), similarity_colour(step / (width - 1)))
    for share, name, anchor in ((0.0, "0 unrelated", "la"), (1.0, "1 equal", "ra")):
        draw.text((MARGIN + share * width, top + 17), name, FAINT, font, anchor=anchor)
    left = MARGIN + width + 30
    draw.rectangle((left, top, left + 12, top + 12), outline=_CHOSEN, width=2)
    sample = "a sample of each block, which confirms the names" if scores.sampled else "a few layers of each block"
    measured = f"colour: {MEASURES[scores.measure].label} of {sample}"
    draw.text((left + 20, top - 2), f"chosen;    {measured if scores.kinds else 'by name, not measured'}", FAINT, font)
    draw.rectangle((left, top + 19, left + 12, top + 31), _UNSCORED)
    unscored = "different kinds (roles and shapes)" if scores.kinds else "not measured"
    draw.text((left + 20, top + 17), unscored, FAINT, font)


def _longest(runs: list[BlockRun]) -> int:
    font = ImageFont.load_default(12)
    return int(max((font.getlength(run.label) for run in runs), default=0)) + 20
