"""The picture of similarity along the depth of a model: one column for each block of the target."""

from dataclasses import dataclass

import numpy
from PIL import Image, ImageDraw, ImageFont

from ..reports.layer import LayerReport
from ..reports.transfer import Report
from .drawing import BACKGROUND, FAINT, FILE, GREEN, LINE, MARGIN, ORANGE, Size, draw_titles
from .labels import block_runs, draw_columns

_SIMILARITY, _COSINE = GREEN, ORANGE
_HEIGHT = 300  # pixels of the plot
_STEP = (4, 28)  # smallest and largest width of a block in pixels
_ABOVE = 400  # pixels above the plot while it is drawn: more than any header needs

_Drawing = ImageDraw.ImageDraw


@dataclass(frozen=True)
class _Column:
    """A block of the target: smallest, mean and largest similarity above chance, and weight cosine, of its layers."""

    block: str
    similarity: tuple[float, float, float] | None
    cosine: tuple[float, float, float] | None


@dataclass(frozen=True)
class _Plot:
    """The edges of the plot, and the width of a block, in pixels."""

    left: float
    top: int
    step: float
    blocks: int

    @property
    def right(self) -> float:
        return self.left + self.step * max(1, self.blocks)

    @property
    def bottom(self) -> int:
        return self.top + _HEIGHT

    def x(self, index: int) -> float:
        return self.left + (index + 0.5) * self.step

    def y(self, figure: float) -> float:
        """The height of a figure; negative figures are no better than chance, and are drawn on the axis."""
        return self.bottom - max(0.0, min(1.0, figure)) * (_HEIGHT - 12)


def depth_picture(report: Report, size: Size = FILE) -> numpy.ndarray:
    """Draw a report as uint8 (height, width, 3).

    Each block of the target, in model order, has the mean over its layers of similarity above chance and weight cosine,
    and a bar from the smallest to the largest value.
    """
    columns = _columns(report.layers)
    axis = 3 * size.label
    step = max(_STEP[0], min(_STEP[1], (size.width - 2 * MARGIN - axis) / max(1, len(columns))))
    width = max(size.width, round(axis + step * len(columns)) + 2 * MARGIN)
    picture = Image.new("RGB", (width, _ABOVE + _HEIGHT + 8 * size.label), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    names, text = (report.source.name, report.target.name), f"{len(columns)} blocks of the target, from input to output"
    top = draw_titles(draw, size, "Similarity along the depth", names, (text,), width)
    plot = _Plot(MARGIN + axis, top, step, len(columns))
    _draw_axis(draw, plot, size)
    curves = {
        "weight cosine": (_COSINE, [column.cosine for column in columns]),
        "similarity above chance": (_SIMILARITY, [column.similarity for column in columns]),
    }
    shown = {name: curve for name, curve in curves.items() if any(figure is not None for figure in curve[1])}
    for colour, figures in shown.values():
        _draw_curve(draw, figures, colour, plot)
    font = ImageFont.load_default(size.label)
    draw_columns(draw, block_runs(column.block for column in columns), plot.left, plot.bottom + 6, step, font, width)
    bottom = plot.bottom + 3 * size.label
    _draw_legend(draw, {name: colour for name, (colour, _) in shown.items()}, bottom, size)
    return numpy.asarray(picture.crop((0, 0, width, bottom + 3 * size.label)))


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


def _draw_axis(draw: _Drawing, plot: _Plot, size: Size) -> None:
    font = ImageFont.load_default(size.label)
    for figure in (0.0, 0.25, 0.5, 0.75, 1.0):
        draw.line((plot.left, plot.y(figure), plot.right, plot.y(figure)), LINE)
        draw.text((plot.left - 8, plot.y(figure)), f"{figure:g}", FAINT, font, anchor="rm")


def _draw_curve(draw: _Drawing, figures: list[tuple[float, float, float] | None], colour: str, plot: _Plot) -> None:
    """Draw bars, and a line through the means with gaps where a block has no figure."""
    previous: tuple[float, float] | None = None
    for index, figure in enumerate(figures):
        if figure is None:
            previous = None
            continue
        least, mean, largest = figure
        x, y = plot.x(index), plot.y(mean)
        draw.line((x, plot.y(least), x, plot.y(largest)), colour, 1)
        if previous is not None:
            draw.line((*previous, x, y), colour, 2)
        radius = 3 if plot.step > 8 else 2
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
        previous = x, y


def _draw_legend(draw: _Drawing, colours: dict[str, str], top: int, size: Size) -> None:
    font, left = ImageFont.load_default(size.label), float(MARGIN)
    for name, colour in colours.items():
        draw.line((left, top + size.label * 0.6, left + 26, top + size.label * 0.6), colour, 3)
        draw.text((left + 34, top), name, FAINT, font)
        left += 60 + font.getlength(name)
    draw.text((left, top), "bars: least to most similar layer", FAINT, font)
