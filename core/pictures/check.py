"""The picture of a check: the gap closed at each noise level, and after a search also at each strength."""

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
_LEAST = -1.0  # smaller figures are drawn on the lower edge; the report has the exact figures
_LEGEND_LINE = 22
_DOT = 7.0  # pixels between the dots of a line

_LEGIBLE = 4  # with more adapters the cosines are not drawn; the legend always has them
_THICK = "thick: gap closed, the share of the way from the bare target to the source with its LoRA; below 0 is harm"
_THIN = "thin: G, how well the change on the target matches the change on the source; 1 is the same change"
_DOTTED = ";  dotted: cosine of the two changes"

_Drawing = ImageDraw.ImageDraw
_Stroke = Literal["thick", "thin", "dotted"]


class _Panel:
    """A frame with evenly spaced positions along x, and a figure from `least` to 1 along y."""

    def __init__(self, left: int, width: int, positions: int, least: float) -> None:
        self.left, self.width, self.positions, self.least = left, width, positions, least

    def x(self, position: int) -> float:
        return self.left + (position + 0.5) * self.width / self.positions

    def y(self, figure: float) -> float:
        share = (max(self.least, min(1.0, figure)) - self.least) / (1 - self.least)
        return _HEADER + _HEIGHT - share * (_HEIGHT - 10)

    def ticks(self) -> list[float]:
        return [figure for figure in (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0) if figure >= self.least]


def check_picture(report: CheckReport) -> numpy.ndarray:
    """Draw a check as uint8 (height, width, 3).

    At each noise level: gap closed (thick), G (thin) and, of a few adapters, the cosine (dotted). After a search a
    second panel shows gap closed and G over all noise levels at each strength, with a ring around the best.
    """
    panels = _panels(report)
    width = panels[-1].left + panels[-1].width + MARGIN
    legend = _HEADER + _HEIGHT + 62
    picture = Image.new("RGB", (width, legend + _LEGEND_LINE * (len(report.trials) + 1) + 36), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    _draw_header(draw, report, width)
    _draw_frame(
        draw, panels[0], "noise level (sigma), from high to low; strength 1", _format_levels(report.noise_levels)
    )
    for trial, colour in reversed(_assign_colours(report)):  # the transferred LoRA on top
        levels = trial.at_strength_one().levels
        if _has_cosines(report):
            _draw_curve(
                draw, panels[0], [None if level is None else level.cosine for level in levels], colour, "dotted"
            )
        _draw_curves(draw, panels[0], levels, colour)
    if report.searched:
        strengths = [attempt.strength for attempt in report.transferred.attempts]
        _draw_frame(draw, panels[1], "strength; all noise levels", [f"{strength:g}" for strength in strengths])
        for trial, colour in reversed(_assign_colours(report)):
            _draw_curves(draw, panels[1], [attempt.pooled for attempt in trial.attempts], colour)
        _, chosen = report.chosen()
        if chosen.pooled.gap_closed is not None:
            x, y = panels[1].x(strengths.index(chosen.strength)), panels[1].y(chosen.pooled.gap_closed)
            draw.ellipse((x - 8, y - 8, x + 8, y + 8), outline=TEXT, width=2)
    _draw_legend(draw, report, legend)
    return numpy.asarray(picture)


def _panels(report: CheckReport) -> list[_Panel]:
    """The panels of the picture. Their lower edge is 0, or -1 if a figure is negative."""
    agreements = [agreement for trial in report.trials for agreement in _agreements(trial)]
    smallest = min(min(item.score, item.change_match, item.cosine) for item in agreements)
    least = _LEAST if smallest < -0.02 else 0.0
    counts = [len(report.noise_levels)]
    if report.searched:
        counts.append(len(report.transferred.attempts))
    panels: list[_Panel] = []
    left = MARGIN + _AXIS
    for width, count in zip(_PANELS, counts, strict=False):
        panel_width = width if report.searched else sum(_PANELS) + _GAP + _AXIS
        panels.append(_Panel(left, panel_width, count, least))
        left += panel_width + _GAP + _AXIS
    return panels


def _has_cosines(report: CheckReport) -> bool:
    return len(report.trials) <= _LEGIBLE


def _agreements(trial: Trial) -> list[Agreement]:
    levels = [level for level in trial.at_strength_one().levels if level is not None]
    return [*levels, *(attempt.pooled for attempt in trial.attempts)]


def _assign_colours(report: CheckReport) -> list[tuple[Trial, str]]:
    used = dict.fromkeys(_COLOURS, 0)
    assigned: list[tuple[Trial, str]] = []
    for trial in report.trials:
        colours = _COLOURS[trial.role]
        assigned.append((trial, colours[used[trial.role] % len(colours)]))
        used[trial.role] += 1
    return assigned


def _format_levels(noise_levels: Sequence[float]) -> list[str]:
    return [f"{level:.2g}" if level < 10 else f"{level:.0f}" for level in noise_levels]


def _draw_header(draw: _Drawing, report: CheckReport, width: int) -> None:
    names = f"{shorten(report.adapter.name)}:  {shorten(report.source.name)}  to  {shorten(report.target.name)}"
    draw_header(draw, "How much of the gap the LoRA closes", names, report.sentence(), width)


def _draw_frame(draw: _Drawing, panel: _Panel, title: str, marks: Sequence[str]) -> None:
    font, bottom, right = ImageFont.load_default(13), _HEADER + _HEIGHT, panel.left + panel.width
    for figure in panel.ticks():
        draw.line((panel.left, panel.y(figure), right, panel.y(figure)), ZERO if figure == 0 else LINE)
        edge = " or less" if figure == panel.least < 0 else ""
        draw.text((panel.left - 8, panel.y(figure)), f"{figure:g}{edge}", FAINT, font, anchor="rm")
    step = -(-len(marks) * 40 // panel.width)  # with many levels only every second or third has a label
    for position, mark in enumerate(marks):
        draw.line((panel.x(position), bottom, panel.x(position), bottom + 4), LINE)
        if position % step == 0:
            draw.text((panel.x(position), bottom + 8), mark, FAINT, font, anchor="ma")
    draw.text((panel.left + panel.width / 2, bottom + 28), title, FAINT, font, anchor="ma")


def _draw_curves(draw: _Drawing, panel: _Panel, agreements: Sequence[Agreement | None], colour: str) -> None:
    _draw_curve(draw, panel, [None if item is None else item.change_match for item in agreements], colour, "thin")
    _draw_curve(draw, panel, [None if item is None else item.gap_closed for item in agreements], colour, "thick")


def _draw_curve(draw: _Drawing, panel: _Panel, figures: Sequence[float | None], colour: str, stroke: _Stroke) -> None:
    """Draw a line through the figures, with gaps where there are none; a thick line has a mark at each figure."""
    previous: tuple[float, float] | None = None
    for position, figure in enumerate(figures):
        if figure is None:
            previous = None
            continue
        point = panel.x(position), panel.y(figure)
        if previous is not None:
            _draw_line(draw, previous, point, colour, stroke)
        if stroke == "thick" or previous is None:
            radius = 4 if stroke == "thick" else 1
            draw.ellipse((point[0] - radius, point[1] - radius, point[0] + radius, point[1] + radius), colour)
        previous = point


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
    for row, (trial, colour) in enumerate(_assign_colours(report)):
        y = top + row * _LEGEND_LINE
        draw.line((MARGIN, y + 9, MARGIN + 26, y + 9), colour, 3)
        pooled = trial.at_strength_one().pooled
        figures = f"{_describe_gap(pooled)}, G {pooled.change_match:.2f}, cosine {pooled.cosine:.2f}, "
        figures += f"size {pooled.norm_ratio:.2f}"
        best = f";  best at strength {trial.best_attempt().strength:g}: {_describe_gap(trial.best_attempt().pooled)}"
        text = f"{shorten(trial.label)}:  {figures}{best if report.searched else ''}"
        draw.text((MARGIN + 34, y), text, TEXT if trial.role == "transferred" else FAINT, font)
    for row, note in enumerate((_THICK, _THIN + _DOTTED if _has_cosines(report) else _THIN)):
        draw.text((MARGIN, top + len(report.trials) * _LEGEND_LINE + 4 + 18 * row), note, FAINT, font)


def _describe_gap(pooled: Agreement) -> str:
    return "no gap to close" if pooled.gap_closed is None else f"gap closed {pooled.gap_closed:.2f}"
