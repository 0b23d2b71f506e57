"""The picture of a training: the loss of every step, and the score where it was measured."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy
from PIL import Image, ImageDraw, ImageFont

from ..reports.training_run import TrainingRun
from .drawing import BACKGROUND, BLUE, FAINT, GREEN, LINE, MARGIN, TEXT, ZERO, draw_header, shorten

_LOSS, _SMOOTH, _SCORE = "#3d6f7d", BLUE, GREEN
_WIDTH, _HEADER, _HEIGHT, _FOOTER = 900, 150, 270, 110  # pixels
_LEFT, _RIGHT = MARGIN + 62, 66  # pixels for the figures of the loss (left) and the score (right)
_SMOOTHING = 0.8  # weight of the previous mean in the running mean of the loss: about the last five steps
_TICKS = 4

_Drawing = ImageDraw.ImageDraw
_Point = tuple[float, float]


class _Frame:
    """Positions along x by step, and two scales along y: the loss from 0, and the score from `least` to 1."""

    def __init__(self, report: TrainingRun) -> None:
        known = [loss for loss in report.losses if loss is not None]
        self.steps = max(1, len(report.losses))
        self.most = max(known, default=1.0) * 1.05 or 1.0
        self.least = min(0.0, max(-1.0, min(report.scores.values())))

    def x(self, step: int) -> float:
        return _LEFT + step * (_WIDTH - _LEFT - _RIGHT) / self.steps

    def loss(self, loss: float) -> float:
        return self._y(loss / self.most)

    def score(self, score: float) -> float:
        return self._y((max(self.least, score) - self.least) / (1 - self.least))

    def _y(self, share: float) -> float:
        return _HEADER + _HEIGHT - min(1.0, share) * (_HEIGHT - 10)


def training_picture(report: TrainingRun) -> numpy.ndarray:
    """Draw a training as uint8 (height, width, 3).

    The left axis shows the loss of each batch (thin) and its running mean, the right axis the score (thick), with a
    ring around the best.
    """
    picture = Image.new("RGB", (_WIDTH, _HEADER + _HEIGHT + _FOOTER), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    done, names = report.title()
    arrangement = "{}:  {}  to  {}" if len(names) == 3 else ":  ".join("{}" for _ in names)
    draw_header(draw, done, arrangement.format(*map(shorten, names)), report.sentence(), _WIDTH)
    frame = _Frame(report)
    _draw_frame(draw, frame)
    losses = [None if loss is None else (frame.x(step), frame.loss(loss)) for step, loss in enumerate(report.losses, 1)]
    _draw_line(draw, losses, _LOSS, 1)
    smoothed = enumerate(_smooth(report.losses), 1)
    _draw_line(
        draw, [None if loss is None else (frame.x(step), frame.loss(loss)) for step, loss in smoothed], _SMOOTH, 2
    )
    scores = {step: (frame.x(step), frame.score(score)) for step, score in report.scores.items()}
    _draw_line(draw, list(scores.values()), _SCORE, 3)
    for step, point in scores.items():
        _draw_dot(draw, point, 4, _SCORE)
        if step == report.best_step:
            draw.ellipse((point[0] - 8, point[1] - 8, point[0] + 8, point[1] + 8), outline=TEXT, width=2)
    _draw_legend(draw, report)
    return numpy.asarray(picture)


def _smooth(losses: Sequence[float | None]) -> list[float | None]:
    """The running mean, corrected for the bias of its start."""
    mean, weight = 0.0, 0.0
    smooth: list[float | None] = []
    for loss in losses:
        if loss is not None:
            mean, weight = _SMOOTHING * mean + (1 - _SMOOTHING) * loss, _SMOOTHING * weight + 1 - _SMOOTHING
        smooth.append(None if loss is None else mean / weight)
    return smooth


def _draw_frame(draw: _Drawing, frame: _Frame) -> None:
    font, bottom, right = ImageFont.load_default(13), _HEADER + _HEIGHT, _WIDTH - _RIGHT
    for tick in range(_TICKS + 1):
        loss = frame.most * tick / _TICKS
        draw.line((_LEFT, frame.loss(loss), right, frame.loss(loss)), LINE)
        draw.text((_LEFT - 8, frame.loss(loss)), f"{loss:.2g}", _SMOOTH, font, anchor="rm")
    for score in (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0):
        if score >= frame.least:
            draw.text((right + 8, frame.score(score)), f"{score:g}", _SCORE, font, anchor="lm")
    if frame.least < 0:
        draw.line((_LEFT, frame.score(0), right, frame.score(0)), ZERO)
    stride = max(1, math.ceil(frame.steps / 12))
    for step in range(0, frame.steps + 1, stride):
        draw.line((frame.x(step), bottom, frame.x(step), bottom + 4), LINE)
        draw.text((frame.x(step), bottom + 8), f"{step}", FAINT, font, anchor="ma")
    draw.text(((_LEFT + right) / 2, bottom + 28), "step", FAINT, font, anchor="ma")


def _draw_line(draw: _Drawing, points: Sequence[_Point | None], colour: str, width: int) -> None:
    """Draw a line through the points, with gaps where there are none."""
    for before, after in pairwise(points):
        if before is not None and after is not None:
            draw.line((*before, *after), colour, width)


def _draw_dot(draw: _Drawing, point: _Point, radius: int, colour: str) -> None:
    draw.ellipse((point[0] - radius, point[1] - radius, point[0] + radius, point[1] + radius), colour)


def _draw_legend(draw: _Drawing, report: TrainingRun) -> None:
    font = ImageFont.load_default(14)
    entries = (
        (_SCORE, 3, f"{report.meaning_of_score()}; the best has a ring"),
        (_SMOOTH, 2, "loss, in the unit of the noise; thin: each step, thick: running mean"),
    )
    for row, (colour, width, text) in enumerate(entries):
        y = _HEADER + _HEIGHT + 54 + 22 * row
        draw.line((MARGIN, y + 9, MARGIN + 26, y + 9), colour, width)
        draw.text((MARGIN + 34, y), text, FAINT, font)
