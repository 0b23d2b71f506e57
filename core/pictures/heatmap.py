"""The heatmap of a report: a cell for every layer, coloured by its similarity above chance."""

from dataclasses import dataclass

import numpy
from PIL import Image, ImageDraw, ImageFont

from ..reports.layer import LayerReport
from ..reports.transfer import Report
from .drawing import BACKGROUND, FAINT, HATCH, LINE, MARGIN, ORANGE, TEXT, shorten, similarity_colour

_WIDEST, _NARROWEST = 1240, 960  # pixels: readable under a node; enough for the legend
_TALLEST_PANEL = 1500  # pixels; more rows are drawn lower, and without figures
_CELL_WIDTH, _CELL_HEIGHT, _READABLE = 44, 20, 14
_LABEL_LETTERS, _GAP = 40, 28
_HEADER, _FOOTER = 112, 64

_Drawing = ImageDraw.ImageDraw


@dataclass(frozen=True)
class _Panel:
    """Blocks that share roles: a row for each block, a column for each role."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], LayerReport]

    @property
    def cell_height(self) -> int:
        return max(4, min(_CELL_HEIGHT, _TALLEST_PANEL // len(self.rows)))

    @property
    def label_width(self) -> int:
        return _longest(self.rows)

    @property
    def label_height(self) -> int:
        return _longest(self.columns)

    @property
    def size(self) -> tuple[int, int]:
        return (
            self.label_width + _CELL_WIDTH * len(self.columns),
            self.label_height + self.cell_height * len(self.rows),
        )


def similarity_heatmap(report: Report) -> numpy.ndarray:
    """Draw a report as uint8 (height, width, 3).

    Blocks that share roles form a panel, in model order; all other layers are listed by name. Bright cells are equal,
    dark cells no more alike than chance. The figure in a cell is Phi. Copied layers have a frame.
    """
    positions, height = _lay_out(_panels(report.layers))
    width = max([_NARROWEST, *(left + panel.size[0] + MARGIN for panel, left, _ in positions)])
    picture = Image.new("RGB", (width, height + _FOOTER), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    _draw_header(draw, report)
    for panel, left, top in positions:
        _draw_panel(picture, draw, panel, left, top)
    _draw_legend(draw, height, report)
    return numpy.asarray(picture)


def _panels(layers: tuple[LayerReport, ...]) -> list[_Panel]:
    """Group blocks that share roles, largest panel first; blocks with a single role form one list at the end."""
    roles_of: dict[str, list[str]] = {}
    for layer in layers:
        roles_of.setdefault(layer.pair.target.block, []).append(layer.pair.target.role)
    groups: list[tuple[list[str], list[str]]] = []  # blocks, roles
    for block, roles in roles_of.items():
        related = [group for group in groups if set(group[1]) & set(roles)]
        rest = [group for group in groups if not set(group[1]) & set(roles)]
        blocks = [name for group in related for name in group[0]] + [block]
        groups = [*rest, (blocks, list(dict.fromkeys([role for group in related for role in group[1]] + roles)))]
    cells = {(layer.pair.target.block, layer.pair.target.role): layer for layer in layers}
    panels = [
        _Panel(tuple(blocks), tuple(roles), cells) for blocks, roles in groups if len(roles) > 1 and blocks != [""]
    ]
    grouped = {block for panel in panels for block in panel.rows}
    single = {(layer.pair.target.name, "layer"): layer for layer in layers if layer.pair.target.block not in grouped}
    panels.sort(key=lambda panel: -len(panel.rows) * len(panel.columns))
    return [*panels, _Panel(tuple(name for name, _ in single), ("layer",), single)] if single else panels


def _lay_out(panels: list[_Panel]) -> tuple[list[tuple[_Panel, int, int]], int]:
    """The left and top of each panel, in rows from left to right, and the total height."""
    positions: list[tuple[_Panel, int, int]] = []
    left, top, lowest = MARGIN, _HEADER, _HEADER
    for panel in panels:
        width, height = panel.size
        if left > MARGIN and left + width > _WIDEST - MARGIN:
            left, top = MARGIN, lowest + _GAP
        positions.append((panel, left, top))
        left, lowest = left + width + _GAP, max(lowest, top + height)
    return positions, lowest + _GAP


def _draw_header(draw: _Drawing, report: Report) -> None:
    means, settings = report.means(), report.settings
    figures = {
        "similarity": means["phi"],
        "above chance": means["phi_above_chance"],
        "weight cosine": means["weight_cosine"],
        "drift": means["drift"],
    }
    means_text = ",  ".join(f"{name} {value:.3f}" for name, value in figures.items() if value is not None)
    by_cosine = settings["measure"] == "weight_cosine"
    rule = "" if by_cosine else f"rank rule {settings['rank_rule']} {settings['rank_rule_amount']:g};  "
    counts = f"{len(report.layers)} layers" + (f", {len(report.skipped)} skipped" if report.skipped else "")
    draw.text((MARGIN, 18), "Weight cosine" if by_cosine else "Subspace similarity", TEXT, ImageFont.load_default(28))
    names = f"{shorten(report.source.name, 60)}  to  {shorten(report.target.name, 60)}"
    draw.text((MARGIN, 54), names, TEXT, ImageFont.load_default(18))
    means_line = f"{counts};  {rule}means: {means_text}" if means_text else f"{counts}: there is nothing to compare"
    draw.text((MARGIN, 80), means_line, FAINT, ImageFont.load_default(16))


def _draw_panel(picture: Image.Image, draw: _Drawing, panel: _Panel, left: int, top: int) -> None:
    font, height = ImageFont.load_default(13), panel.cell_height
    first, grid = left + panel.label_width, top + panel.label_height
    for index, column in enumerate(panel.columns):
        label = Image.new("RGB", (panel.label_height, 16), BACKGROUND)
        ImageDraw.Draw(label).text((4, 0), shorten(column, _LABEL_LETTERS), FAINT, font)
        rotated = label.rotate(90, expand=True)
        picture.paste(rotated, (first + index * _CELL_WIDTH + (_CELL_WIDTH - 16) // 2, top))
    every = -(-_READABLE // height)  # low rows: only every second or third has a label
    for number, row in enumerate(panel.rows):
        y = grid + number * height
        if number % every == 0:
            name = shorten(row, _LABEL_LETTERS)
            draw.text((first - 8, y + height / 2), name, FAINT, font, anchor="rm")
        for index, column in enumerate(panel.columns):
            if (row, column) in panel.cells:
                _draw_cell(draw, panel.cells[row, column], first + index * _CELL_WIDTH, y, height)


def _draw_cell(draw: _Drawing, layer: LayerReport, x: int, y: int, height: int) -> None:
    box = (x, y, x + _CELL_WIDTH - 2, y + height - (2 if height > 6 else 1))
    phi, above = layer.similarity.phi, layer.similarity.above_chance
    if layer.similarity.rank is None:  # by weight cosine, whose chance level is zero
        phi = above = layer.similarity.weight_cosine
    if phi is None or above is None:
        draw.rectangle(box, LINE)
        for offset in range(0, _CELL_WIDTH - height, 7):
            draw.line((x + offset, box[3], x + offset + height, y), HATCH)
        figure, ink = "n/a", TEXT
    else:
        red, green, blue = similarity_colour(above)
        draw.rectangle(box, (red, green, blue))
        bright = 0.299 * red + 0.587 * green + 0.114 * blue > 130
        figure, ink = f"{phi:.2f}", ("#101014" if bright else "#f4f4f8")
    if layer.decision == "copied":
        draw.rectangle(box, outline=ORANGE, width=2)
    if height >= _READABLE:
        draw.text(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), figure, ink, ImageFont.load_default(13), anchor="mm")


def _draw_legend(draw: _Drawing, top: int, report: Report) -> None:
    font, left, width = ImageFont.load_default(14), MARGIN, 300
    for step in range(width):
        draw.line((left + step, top, left + step, top + 14), similarity_colour(step / (width - 1)))
    for share, name in ((0.0, "0 chance"), (0.5, "0.5"), (1.0, "1 equal")):
        anchor = "la" if share == 0 else "ra" if share == 1 else "ma"
        draw.text((left + share * width, top + 20), name, FAINT, font, anchor=anchor)
    notes = ["colour: similarity above chance", "figure: similarity", "n/a: the basis is complete and shows nothing"]
    if report.settings["measure"] == "weight_cosine":
        notes = ["colour and figure: weight cosine", "n/a: the weight is zero"]
    if any(layer.decision == "copied" for layer in report.layers):
        notes.append("orange frame: copied")
    draw.text((left + width + 32, top - 2), ";   ".join(notes), FAINT, font)


def _longest(labels: tuple[str, ...]) -> int:
    """The width of the longest label in pixels."""
    font = ImageFont.load_default(13)
    return int(max(font.getlength(shorten(label, _LABEL_LETTERS)) for label in labels)) + 12
