"""The picture of similarity along the depth of a model: one column for each block of the target."""

from dataclasses import dataclass

import numpy
from PIL import Image, ImageDraw, ImageFont

from ..reports.layer import LayerReport
from ..reports.transfer import Report
from .drawing import BACKGROUND, FAINT, GREEN, LINE, MARGIN, ORANGE, TEXT, BlockRun, block_runs, shorten

_SIMILARITY, _COSINE = GREEN, ORANGE
_HEADER, _HEIGHT, _LEGEND = 88, 260, 56
_AXIS, _PLOT = 44, (860, 1240)  # pixels left of the plot; its smallest and largest width
_STEP = (4, 28)  # smallest and largest width of a block in pixels


@dataclass(frozen=True)
class _Column:
    """A block of the target: smallest, mean and largest similarity above chance, and weight cosine, of its layers."""

    block: str
    similarity: tuple[float, float, float] | None
    cosine: tuple[float, float, float] | None


def depth_picture(report: Report) -> numpy.ndarray:
    """Draw a report as uint8 (height, width, 3).

    Each block of the target, in model order, has the mean over its layers of similarity above chance and weight cosine,
    and a bar from the smallest to the largest value.
    """
    columns = _columns(report.layers)
    step = max(_STEP[0], min(_STEP[1], _PLOT[1] // max(1, len(columns))))
    left, bottom = MARGIN + _AXIS, _HEADER + _HEIGHT
    width = max(_PLOT[0], left + step * len(columns) + MARGIN)
    labels = _label_height(columns)
    picture = Image.new("RGB", (width, bottom + labels + _LEGEND), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, 18), "Similarity along depth", TEXT, ImageFont.load_default(28))
    names = f"{shorten(report.source.name, 60)}  to  {shorten(report.target.name, 60)},  {len(columns)} blocks"
    draw.text((MARGIN, 54), names, TEXT, ImageFont.load_default(16))
    _draw_axis(draw, left, left + step * max(1, len(columns)))
    for colour, figures in (
        (_COSINE, [column.cosine for column in columns]),
        (_SIMILARITY, [column.similarity for column in columns]),
    ):
        _draw_curve(draw, figures, colour, left, step)
    _draw_labels(picture, columns, left, step, bottom)
    _draw_legend(draw, bottom + labels + 20)
    return numpy.asarray(picture)


def _columns(layers: tuple[LayerReport, ...]) -> list[_Column]:
    by_block: dict[str, list[LayerReport]] = {}
    for layer in layers:
        by_block.setdefault(layer.pair.target.block or layer.pair.target.name, []).append(layer)
    return [
        _Column(
            block,
            _range([layer.similarity.above_chance for layer in block_layers]),
            _range([layer.similarity.weight_cosine for layer in block_layers]),
        )
        for block, block_layers in by_block.items()
    ]


def _range(figures: list[float | None]) -> tuple[float, float, float] | None:
    known = [figure for figure in figures if figure is not None]
    return (min(known), sum(known) / len(known), max(known)) if known else None


def _y(figure: float) -> float:
    """The height of a figure; negative figures are no better than chance, and are drawn on the axis."""
    return _HEADER + _HEIGHT - max(0.0, min(1.0, figure)) * (_HEIGHT - 12)


def _draw_axis(draw: ImageDraw.ImageDraw, left: int, right: int) -> None:
    font = ImageFont.load_default(13)
    for figure in (0.0, 0.25, 0.5, 0.75, 1.0):
        draw.line((left, _y(figure), right, _y(figure)), LINE)
        draw.text((left - 8, _y(figure)), f"{figure:g}", FAINT, font, anchor="rm")


def _draw_curve(
    draw: ImageDraw.ImageDraw, figures: list[tuple[float, float, float] | None], colour: str, left: int, step: int
) -> None:
    """Draw bars, and a line through the means with gaps where a block has no figure."""
    previous: tuple[float, float] | None = None
    for index, figure in enumerate(figures):
        x = left + (index + 0.5) * step
        if figure is None:
            previous = None
            continue
        least, mean, largest = figure
        draw.line((x, _y(least), x, _y(largest)), colour, 1)
        if previous is not None:
            draw.line((*previous, x, _y(mean)), colour, 2)
        radius = 3 if step > 8 else 2
        draw.ellipse((x - radius, _y(mean) - radius, x + radius, _y(mean) + radius), colour)
        previous = x, _y(mean)


def _runs(columns: list[_Column]) -> list[BlockRun]:
    return block_runs(column.block for column in columns)


def _label_height(columns: list[_Column]) -> int:
    font = ImageFont.load_default(12)
    return int(max((font.getlength(run.label) for run in _runs(columns)), default=0)) + 16


def _draw_labels(picture: Image.Image, columns: list[_Column], left: int, step: int, top: int) -> None:
    """Draw the rotated names of the runs, and a line where each starts. A name that would overlap the previous one is
    left out."""
    draw, font, height, label_end = ImageDraw.Draw(picture), ImageFont.load_default(12), _label_height(columns), 0.0
    for run in _runs(columns):
        x, middle = left + run.start * step, left + (run.start + run.count / 2) * step
        draw.line((x, _HEADER, x, top + 5), LINE)
        if middle - 7 >= label_end:
            label = Image.new("RGB", (height, 14), BACKGROUND)
            ImageDraw.Draw(label).text((height - 4, 0), run.label, TEXT if run.count > 1 else FAINT, font, anchor="ra")
            picture.paste(label.rotate(90, expand=True), (int(middle) - 7, top + 6))
            label_end = middle + 7


def _draw_legend(draw: ImageDraw.ImageDraw, top: int) -> None:
    font, left = ImageFont.load_default(14), MARGIN
    for colour, name in ((_SIMILARITY, "similarity above chance"), (_COSINE, "weight cosine")):
        draw.line((left, top + 9, left + 26, top + 9), colour, 3)
        draw.text((left + 34, top), name, FAINT, font)
        left += 54 + int(font.getlength(name))
    draw.text((left, top), "bars: from the least to the most similar layer of a block", FAINT, font)
