"""The heatmap of a report: a cell for every layer, coloured by its similarity above chance.

Blocks are columns, in the models' order, and roles are rows, as in the interactive picture (web/layer_picture).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy
from PIL import Image, ImageDraw, ImageFont

from ..drift import WeightFigures
from ..reports.transfer import Report
from ..similarity import LayerSimilarity
from .drawing import (
    BACKGROUND,
    EMPTY,
    FAINT,
    FILE,
    HATCH,
    MARGIN,
    ORANGE,
    TEXT,
    Hatching,
    Size,
    draw_ramp,
    draw_titles,
    fit,
    ink_on,
    similarity_colour,
)
from .labels import block_runs, draw_columns
from .panels import Cell, Panel, State, panels_of

_WIDEST = 3200  # pixels; a panel with more columns continues below
_CELL = (4, 44)  # smallest and largest width of a cell in pixels
_FIGURE_CELL = 38  # width of a cell with a figure
_LABEL_SHARE = 0.24  # the share of the least width that names of roles may take
_HEADER_ROOM = 400  # pixels; more than any header needs
_FADED = 0.4  # how strong the colour of a layer is that the threshold leaves out

_Drawing = ImageDraw.ImageDraw


def similarity_heatmap(report: Report, size: Size = FILE) -> numpy.ndarray:
    """Draw a report as uint8 (height, width, 3).

    Blocks that share roles form a panel, blocks in columns; all other layers stand in a row of their own. Bright cells
    are equal, dark cells no more alike than chance. Hatched cells are not transferred.
    """
    panels = panels_of(report)
    labels = _measure_labels(panels, size)
    most = int((_WIDEST - labels - 2 * MARGIN) / (_FIGURE_CELL if size.has_figures else _CELL[0]))
    panels = [panel.part(start, most) for panel in panels for start in range(0, len(panel.columns), most)]
    widest = max((len(panel.columns) * _cell_width(panel, labels, size) for panel in panels), default=0.0)
    width = max(size.width, int(labels + widest) + 2 * MARGIN)
    row, gap = round(1.5 * size.label), 2 * size.label
    height = sum(row * panel.lines + gap for panel in panels) + 4 * size.label
    picture = Image.new("RGB", (width, _HEADER_ROOM + height), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    top = _draw_header(draw, report, size, width)
    pen = _Pen(picture, draw, size, marks_copies=any(layer.decision == "transferred" for layer in report.layers))
    for panel in panels:
        pen.draw_panel(panel, top, labels, _cell_width(panel, labels, size), row)
        top += row * panel.lines + gap
    bottom = _draw_legend(pen, top, report, width)
    return numpy.asarray(picture.crop((0, 0, width, bottom + MARGIN)))


def _measure_labels(panels: Sequence[Panel], size: Size) -> float:
    """The width of the names of roles; the longest are cut."""
    font = ImageFont.load_default(size.label)
    names = [name for panel in panels for name in panel.rows]
    return min(_LABEL_SHARE * size.width, max((font.getlength(name) for name in names), default=0.0)) + 14


def _cell_width(panel: Panel, labels: float, size: Size) -> float:
    room = (size.width - 2 * MARGIN - labels) / len(panel.columns)
    return min(_CELL[1], max(_FIGURE_CELL if size.has_figures else _CELL[0], room))


class _Pen:
    """Draws panels of a size on a picture."""

    def __init__(self, picture: Image.Image, draw: _Drawing, size: Size, *, marks_copies: bool) -> None:
        self.picture, self.draw, self.size, self.marks_copies = picture, draw, size, marks_copies
        self.font = ImageFont.load_default(size.label)
        self.below, self.unmatched = Hatching(TEXT, lattice=False), Hatching(HATCH, lattice=True)

    def draw_panel(self, panel: Panel, top: int, labels: float, step: float, row: int) -> None:
        left = MARGIN + labels
        if panel.has_header:
            runs = block_runs(name.strip() for name in panel.columns)
            draw_columns(self.draw, runs, left, top, step, self.font, self.picture.width - MARGIN / 2)
        for index, role in enumerate(panel.rows):
            y = top + row * (index + panel.has_header)
            name = fit(role, self.font, labels - 14)
            self.draw.text((MARGIN, y + row / 2), name, FAINT, self.font, anchor="lm")
            for column, cells in enumerate(panel.columns.values()):
                if role in cells:
                    x = round(left + column * step)
                    right = round(left + (column + 1) * step) - (2 if step > 6 else 1)
                    self.draw_cell(cells[role], (x, y, max(x, right), y + row - 3))

    def draw_cell(self, cell: Cell, box: tuple[int, int, int, int]) -> None:
        figure, above = cell.figures()
        self.draw.rectangle(box, EMPTY)
        if cell.state == "unmatched":
            self.unmatched.fill(self.picture, box)
        elif figure is None or above is None:
            self._write(box, "n/a", FAINT)
        else:
            colour = similarity_colour(above)
            if cell.state == "below":
                colour = _fade(colour)
            self.draw.rectangle(box, colour)
            if cell.state == "below":
                self.below.fill(self.picture, box)
            else:
                self._write(box, f"{figure:.2f}", ink_on(colour))
            if cell.state == "copied" and self.marks_copies:
                self.draw.rectangle((box[0], box[3] - 1, box[2], box[3]), ORANGE)

    def _write(self, box: tuple[int, int, int, int], text: str, ink: str) -> None:
        if self.size.has_figures:
            self.draw.text(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), text, ink, self.font, anchor="mm")


def _fade(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    dark = tuple(int(EMPTY[start : start + 2], 16) for start in (1, 3, 5))
    red, green, blue = (round(_FADED * strong + (1 - _FADED) * weak) for strong, weak in zip(colour, dark, strict=True))
    return red, green, blue


def _draw_header(draw: _Drawing, report: Report, size: Size, width: int) -> int:
    means, by_cosine = report.means(), report.settings["measure"] == "weight_cosine"
    figures = {"weight cosine": means["weight_cosine"]}
    if not by_cosine:
        figures = {"similarity": means["phi"], "above chance": means["phi_above_chance"], **figures}
    shown = [f"{name} {value:.2f}" for name, value in figures.items() if value is not None]
    counts = f"{len(report.layers)} layers" + (f", {len(report.skipped)} skipped" if report.skipped else "")
    text = f"{counts};  means: {', '.join(shown)}" if shown else f"{counts}: there is nothing to compare"
    title = "Weight cosine of every layer" if by_cosine else "Similarity of every layer"
    return draw_titles(draw, size, title, (report.source.name, report.target.name), (text,), width)


def _draw_legend(pen: _Pen, top: int, report: Report, width: int) -> int:
    """Draw the colours and what the marks mean; returns the lower edge."""
    font, side, draw = pen.font, pen.size.label, pen.draw
    draw_ramp(draw, MARGIN, top + 2, 8 * side, side - 4)
    x, line = MARGIN + 8 * side + 12.0, top
    draw.text((x, line), "chance to equal", FAINT, font)
    x += font.getlength("chance to equal") + 30
    reasons = {item.target is not None for item in report.skipped}
    copies = pen.marks_copies and any(layer.decision == "copied" for layer in report.layers)
    entries: tuple[tuple[State, str, bool], ...] = (
        ("below", "left out by the threshold", True in reasons),
        ("unmatched", "no partner", False in reasons),
        ("copied", "copied unchanged", copies),
    )
    plain = _Pen(pen.picture, draw, replace(pen.size, has_figures=False), marks_copies=True)
    for state, text, occurs in entries:
        if not occurs:
            continue
        if x + side + 12 + font.getlength(text) > width - MARGIN:
            x, line = MARGIN, line + round(1.5 * side)
        sample = Cell("", state, LayerSimilarity(WeightFigures(0.6, None, (1.0, 1.0))))
        plain.draw_cell(sample, (int(x), line + 2, int(x) + side, line + side - 2))
        draw.text((x + side + 10, line), text, FAINT, font)
        x += side + 40 + font.getlength(text)
    return line + round(1.2 * side)
