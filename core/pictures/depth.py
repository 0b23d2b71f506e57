"""How alike two models are along their depth: one column for each block of the target."""

from dataclasses import dataclass
from itertools import groupby

import numpy
from PIL import Image, ImageDraw, ImageFont

from ..reports.layer import LayerReport
from ..reports.transfer import Report

_BACKGROUND, _TEXT, _FAINT, _LINE = "#1e1e22", "#ececf0", "#9a9aa4", "#3a3a40"
_SIMILARITY, _COSINE = "#5ec962", "#ff9f43"
_MARGIN, _HEADER, _HEIGHT, _LEGEND, _LETTERS = 28, 88, 260, 56, 44
_AXIS, _PLOT = 44, (860, 1240)  # pixels left of the plot, and its least and largest width
_STEP = (4, 28)  # pixels of a block


@dataclass(frozen=True)
class _Column:
    """A block of the target: the least, mean and largest similarity above chance of its layers, and weight cosine."""

    block: str
    similarity: tuple[float, float, float] | None
    cosine: tuple[float, float, float] | None


def depth_picture(report: Report) -> numpy.ndarray:
    """Draw a report as uint8 (height, width, 3): for each block of the target, in its order, the mean over the layers
    of similarity above chance and of the weight cosine, and a bar from the least to the largest."""
    columns = _columns(report.layers)
    step = max(_STEP[0], min(_STEP[1], _PLOT[1] // max(1, len(columns))))
    left, bottom = _MARGIN + _AXIS, _HEADER + _HEIGHT
    width = max(_PLOT[0], left + step * len(columns) + _MARGIN)
    labels = _label_height(columns)
    picture = Image.new("RGB", (width, bottom + labels + _LEGEND), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, 18), "Similarity along depth", _TEXT, ImageFont.load_default(28))
    names = f"{report.source.name[-60:]}  to  {report.target.name[-60:]},  {len(columns)} blocks"
    draw.text((_MARGIN, 54), names, _TEXT, ImageFont.load_default(16))
    _draw_axis(draw, left, left + step * max(1, len(columns)))
    for colour, figures in (
        (_COSINE, [one.cosine for one in columns]),
        (_SIMILARITY, [one.similarity for one in columns]),
    ):
        _draw_curve(draw, figures, colour, left, step)
    _draw_labels(picture, columns, left, step, bottom)
    _draw_legend(draw, bottom + labels + 20)
    return numpy.asarray(picture)


def _columns(layers: tuple[LayerReport, ...]) -> list[_Column]:
    found: dict[str, list[LayerReport]] = {}
    for layer in layers:
        found.setdefault(layer.pair.target.block or layer.pair.target.name, []).append(layer)
    return [
        _Column(
            block,
            _range([layer.similarity.above_chance for layer in some]),
            _range([layer.similarity.weight_cosine for layer in some]),
        )
        for block, some in found.items()
    ]


def _range(figures: list[float | None]) -> tuple[float, float, float] | None:
    known = [figure for figure in figures if figure is not None]
    return (min(known), sum(known) / len(known), max(known)) if known else None


def _y(figure: float) -> float:
    """A negative figure is no better than chance: it lies on the axis."""
    return _HEADER + _HEIGHT - max(0.0, min(1.0, figure)) * (_HEIGHT - 12)


def _draw_axis(draw: ImageDraw.ImageDraw, left: int, right: int) -> None:
    font = ImageFont.load_default(13)
    for figure in (0.0, 0.25, 0.5, 0.75, 1.0):
        draw.line((left, _y(figure), right, _y(figure)), _LINE)
        draw.text((left - 8, _y(figure)), f"{figure:g}", _FAINT, font, anchor="rm")


def _draw_curve(
    draw: ImageDraw.ImageDraw, figures: list[tuple[float, float, float] | None], colour: str, left: int, step: int
) -> None:
    """Bars, and a line through the means that breaks where a block has no figure."""
    before: tuple[float, float] | None = None
    for index, figure in enumerate(figures):
        x = left + (index + 0.5) * step
        if figure is None:
            before = None
            continue
        least, mean, largest = figure
        draw.line((x, _y(least), x, _y(largest)), colour, 1)
        if before is not None:
            draw.line((*before, x, _y(mean)), colour, 2)
        radius = 3 if step > 8 else 2
        draw.ellipse((x - radius, _y(mean) - radius, x + radius, _y(mean) + radius), colour)
        before = x, _y(mean)


def _runs(columns: list[_Column]) -> list[tuple[str, int, int]]:
    """(name, first column, count) of neighbours whose names differ in their last number alone."""
    found: list[tuple[str, int, int]] = []
    start = 0
    for name, some in groupby(columns, key=lambda one: one.block.rstrip("0123456789").rstrip(".") or one.block):
        count = len(list(some))
        label = f"{_end(name)}  x{count}" if count > 1 else _end(columns[start].block)
        found.append((label, start, count))
        start += count
    return found


def _end(name: str) -> str:
    """The end of a name tells blocks apart, so it is the beginning that goes."""
    return name if len(name) <= _LETTERS else "…" + name[-_LETTERS + 1 :]


def _label_height(columns: list[_Column]) -> int:
    font = ImageFont.load_default(12)
    return int(max((font.getlength(label) for label, _, _ in _runs(columns)), default=0)) + 16


def _draw_labels(picture: Image.Image, columns: list[_Column], left: int, step: int, top: int) -> None:
    """The names of runs, turned, below a line at each beginning; one that would lie on the one before is left out."""
    draw, font, height, reached = ImageDraw.Draw(picture), ImageFont.load_default(12), _label_height(columns), 0.0
    for name, start, count in _runs(columns):
        x, middle = left + start * step, left + (start + count / 2) * step
        draw.line((x, _HEADER, x, top + 5), _LINE)
        if middle - 7 >= reached:
            label = Image.new("RGB", (height, 14), _BACKGROUND)
            ImageDraw.Draw(label).text((height - 4, 0), name, _TEXT if count > 1 else _FAINT, font, anchor="ra")
            picture.paste(label.rotate(90, expand=True), (int(middle) - 7, top + 6))
            reached = middle + 7


def _draw_legend(draw: ImageDraw.ImageDraw, top: int) -> None:
    font, left = ImageFont.load_default(14), _MARGIN
    for colour, name in ((_SIMILARITY, "similarity above chance"), (_COSINE, "weight cosine")):
        draw.line((left, top + 9, left + 26, top + 9), colour, 3)
        draw.text((left + 34, top), name, _FAINT, font)
        left += 54 + int(font.getlength(name))
    draw.text((left, top), "bars: from the least to the most alike layer of a block", _FAINT, font)
