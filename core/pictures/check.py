"""The picture of a check: the gap closed at each noise level, and after a search at each strength."""

from collections.abc import Sequence
from typing import Literal

import numpy
from PIL import Image, ImageDraw, ImageFont

from ..check import Agreement, Trial
from ..reports.check import CheckReport
from .drawing import (
    BACKGROUND,
    BLUE,
    FAINT,
    GREEN,
    LINE,
    MARGIN,
    ORANGE,
    PINK,
    PURPLE,
    TEXT,
    YELLOW,
    ZERO,
    draw_header,
    shorten,
)

_COLOURS = {"transferred": (GREEN,), "copy": (ORANGE,), "more": (BLUE, PURPLE, YELLOW, PINK)}
_HEADER, _HEIGHT, _AXIS = 150, 270, 66  # pixels; _AXIS is left of each panel, for its figures
_PANELS, _GAP = (560, 260), 24  # widths: noise levels, strengths
_LEAST = -1.0  # what does more harm lies on the lower edge: the figure is in the report
_LEGEND_LINE = 22
_DOT = 7.0  # pixels from one dot of a line to the next

_LEGIBLE = 4  # adapters up to which their cosines are drawn too; the legend has them of all
_THICK = "thick: gap closed, the share of the way from the bare target to the source with its LoRA: 1 all, below 0 harm"
_THIN = "thin: G, the change alone, each seen from its own base: 1 is the same change"
_DOTTED = ";  dotted: cosine of the changes"

_Drawing = ImageDraw.ImageDraw
_Stroke = Literal["thick", "thin", "dotted"]


class _Panel:
    """A frame with places along x and a figure from `least` to 1 along y."""

    def __init__(self, left: int, width: int, places: int, least: float) -> None:
        self.left, self.width, self.places, self.least = left, width, places, least

    def x(self, place: int) -> float:
        return self.left + (place + 0.5) * self.width / self.places

    def y(self, figure: float) -> float:
        share = (max(self.least, min(1.0, figure)) - self.least) / (1 - self.least)
        return _HEADER + _HEIGHT - share * (_HEIGHT - 10)

    def ticks(self) -> list[float]:
        return [figure for figure in (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0) if figure >= self.least]


def check_picture(report: CheckReport) -> numpy.ndarray:
    """Draw a check as uint8 (height, width, 3).

    At each noise level: gap closed (thick), G (thin) and, of a few adapters, the cosine (dotted). After a search a
    second panel shows gap closed and G over all noise levels at each strength, with the chosen strength ringed.
    """
    panels = _panels(report)
    width = panels[-1].left + panels[-1].width + MARGIN
    legend = _HEADER + _HEIGHT + 62
    picture = Image.new("RGB", (width, legend + _LEGEND_LINE * (len(report.trials) + 1) + 36), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    _draw_header(draw, report, width)
    _draw_frame(
        draw, panels[0], "noise level (sigma), from much noise to little; strength 1", _figures(report.noise_levels)
    )
    for trial, colour in reversed(_coloured(report)):  # the transferred LoRA on top
        levels = trial.at_strength_one().levels
        if _has_cosines(report):
            _draw_curve(draw, panels[0], [None if one is None else one.cosine for one in levels], colour, "dotted")
        _draw_curves(draw, panels[0], levels, colour)
    if report.searched:
        strengths = [one.strength for one in report.transferred.attempts]
        _draw_frame(draw, panels[1], "strength; all noise levels", [f"{one:g}" for one in strengths])
        for trial, colour in reversed(_coloured(report)):
            _draw_curves(draw, panels[1], [one.pooled for one in trial.attempts], colour)
        _, chosen = report.chosen()
        if chosen.pooled.gap_closed is not None:
            x, y = panels[1].x(strengths.index(chosen.strength)), panels[1].y(chosen.pooled.gap_closed)
            draw.ellipse((x - 8, y - 8, x + 8, y + 8), outline=TEXT, width=2)
    _draw_legend(draw, report, legend)
    return numpy.asarray(picture)


def _panels(report: CheckReport) -> list[_Panel]:
    """The lower edge is 0, or -1 where a figure is below."""
    shown = [one for trial in report.trials for one in _shown(trial)]
    least = _LEAST if min(min(one.score, one.change_match, one.cosine) for one in shown) < -0.02 else 0.0
    places = [len(report.noise_levels)]
    if report.searched:
        places.append(len(report.transferred.attempts))
    panels: list[_Panel] = []
    left = MARGIN + _AXIS
    for width, count in zip(_PANELS, places, strict=False):
        full = width if report.searched else sum(_PANELS) + _GAP + _AXIS
        panels.append(_Panel(left, full, count, least))
        left += full + _GAP + _AXIS
    return panels


def _has_cosines(report: CheckReport) -> bool:
    return len(report.trials) <= _LEGIBLE


def _shown(trial: Trial) -> list[Agreement]:
    levels = [one for one in trial.at_strength_one().levels if one is not None]
    return [*levels, *(one.pooled for one in trial.attempts)]


def _coloured(report: CheckReport) -> list[tuple[Trial, str]]:
    used = dict.fromkeys(_COLOURS, 0)
    found: list[tuple[Trial, str]] = []
    for trial in report.trials:
        colours = _COLOURS[trial.role]
        found.append((trial, colours[used[trial.role] % len(colours)]))
        used[trial.role] += 1
    return found


def _figures(noise_levels: Sequence[float]) -> list[str]:
    return [f"{one:.2g}" if one < 10 else f"{one:.0f}" for one in noise_levels]


def _draw_header(draw: _Drawing, report: CheckReport, width: int) -> None:
    names = f"{shorten(report.adapter.name)}:  {shorten(report.source.name)}  to  {shorten(report.target.name)}"
    draw_header(draw, "How much of the gap the LoRA closes", names, report.sentence(), width)


def _draw_frame(draw: _Drawing, panel: _Panel, named: str, marks: Sequence[str]) -> None:
    font, bottom, right = ImageFont.load_default(13), _HEADER + _HEIGHT, panel.left + panel.width
    for figure in panel.ticks():
        draw.line((panel.left, panel.y(figure), right, panel.y(figure)), ZERO if figure == 0 else LINE)
        edge = " or less" if figure == panel.least < 0 else ""
        draw.text((panel.left - 8, panel.y(figure)), f"{figure:g}{edge}", FAINT, font, anchor="rm")
    step = -(-len(marks) * 40 // panel.width)  # of many levels only every second or third is named
    for place, mark in enumerate(marks):
        draw.line((panel.x(place), bottom, panel.x(place), bottom + 4), LINE)
        if place % step == 0:
            draw.text((panel.x(place), bottom + 8), mark, FAINT, font, anchor="ma")
    draw.text((panel.left + panel.width / 2, bottom + 28), named, FAINT, font, anchor="ma")


def _draw_curves(draw: _Drawing, panel: _Panel, shown: Sequence[Agreement | None], colour: str) -> None:
    _draw_curve(draw, panel, [None if one is None else one.change_match for one in shown], colour, "thin")
    _draw_curve(draw, panel, [None if one is None else one.gap_closed for one in shown], colour, "thick")


def _draw_curve(draw: _Drawing, panel: _Panel, figures: Sequence[float | None], colour: str, stroke: _Stroke) -> None:
    """A line, if thick with a mark at each figure; it breaks where there is none."""
    before: tuple[float, float] | None = None
    for place, figure in enumerate(figures):
        if figure is None:
            before = None
            continue
        point = panel.x(place), panel.y(figure)
        if before is not None:
            _draw_line(draw, before, point, colour, stroke)
        if stroke == "thick" or before is None:
            radius = 4 if stroke == "thick" else 1
            draw.ellipse((point[0] - radius, point[1] - radius, point[0] + radius, point[1] + radius), colour)
        before = point


def _draw_line(
    draw: _Drawing, start: tuple[float, float], end: tuple[float, float], colour: str, stroke: _Stroke
) -> None:
    if stroke != "dotted":
        draw.line((*start, *end), colour, 3 if stroke == "thick" else 1)
        return
    width, height = end[0] - start[0], end[1] - start[1]
    count = max(1, round((width**2 + height**2) ** 0.5 / _DOT))
    for dot in range(1, count + 1):
        x, y = start[0] + width * dot / count, start[1] + height * dot / count
        draw.ellipse((x - 1, y - 1, x + 1, y + 1), colour)


def _draw_legend(draw: _Drawing, report: CheckReport, top: int) -> None:
    font = ImageFont.load_default(14)
    for row, (trial, colour) in enumerate(_coloured(report)):
        y = top + row * _LEGEND_LINE
        draw.line((MARGIN, y + 9, MARGIN + 26, y + 9), colour, 3)
        pooled = trial.at_strength_one().pooled
        figures = (
            f"{_closed(pooled)}, G {pooled.change_match:.2f}, cosine {pooled.cosine:.2f}, size {pooled.norm_ratio:.2f}"
        )
        best = f";  best at strength {trial.best_attempt().strength:g}: {_closed(trial.best_attempt().pooled)}"
        said = f"{shorten(trial.label)}:  {figures}{best if report.searched else ''}"
        draw.text((MARGIN + 34, y), said, TEXT if trial.role == "transferred" else FAINT, font)
    for row, note in enumerate((_THICK, _THIN + _DOTTED if _has_cosines(report) else _THIN)):
        draw.text((MARGIN, top + len(report.trials) * _LEGEND_LINE + 4 + 18 * row), note, FAINT, font)


def _closed(pooled: Agreement) -> str:
    return "no gap to close" if pooled.gap_closed is None else f"gap closed {pooled.gap_closed:.2f}"
