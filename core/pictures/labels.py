"""Short labels of blocks for axes: "IN 7.1 x10" instead of ten names. A name without an entry keeps its own words."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from PIL import ImageDraw

from .drawing import FAINT, GRID, Font, shorten

# Parts of names and what stands for them on an axis; the empty text leaves a part out.
_SHORT = (
    (re.compile(r"\btime_(?:embed|in)\b"), "TIME"),
    (re.compile(r"\binput_blocks\b"), "IN"),
    (re.compile(r"\bmiddle_block\b"), "MID"),
    (re.compile(r"\boutput_blocks\b"), "OUT"),
    (re.compile(r"\bdouble_blocks\b"), "DOUBLE"),
    (re.compile(r"\bsingle_blocks\b"), "SINGLE"),
    (re.compile(r"\bjoint_blocks\b"), "JOINT"),
    (re.compile(r"\.?\btransformer_blocks\b"), ""),
    (re.compile(r"\.transformer(?:\.text_model)?(?:\.encoder)?(?:\.layers|\.block)\b"), ""),
)
_LETTERS = 20
_GAP = 8  # pixels between two labels


@dataclass(frozen=True)
class BlockRun:
    """Consecutive blocks whose names differ only in their last number, such as 19 "double_blocks"."""

    name: str
    start: int
    count: int

    @property
    def label(self) -> str:
        name = short_block(self.name)
        return name if self.count == 1 else f"{name} x{self.count}"


def block_runs(names: Iterable[str]) -> list[BlockRun]:
    """Group block names, in model order, into runs. A block without similar neighbours is a run of one."""
    runs: list[BlockRun] = []
    start = 0
    for stem, group in groupby(names, key=_without_number):
        blocks = list(group)
        runs.append(BlockRun(stem if len(blocks) > 1 else blocks[0], start, len(blocks)))
        start += len(blocks)
    return runs


def short_block(name: str) -> str:
    """A block's name for an axis: "input_blocks.7.1.transformer_blocks.3" is "IN 7.1.3"."""
    for pattern, short in _SHORT:
        name = pattern.sub(short, name)
    head, _, numbers = name.partition(".")
    return shorten(f"{head} {numbers}".strip(), _LETTERS) if head.isupper() else shorten(name, _LETTERS)


def section_of(label: str) -> str:
    """The word before the numbers of a label: blocks of one section follow each other on an axis."""
    return label.partition(" ")[0]


def draw_columns(
    draw: ImageDraw.ImageDraw, runs: Sequence[BlockRun], left: float, top: float, step: float, font: Font, right: float
) -> None:
    """Write the labels of runs in a line, each where its run starts, with a tick. The section's word stands only where
    it changes. Labels that would overlap are left out; those where a section starts have the first choice, the largest
    section before all."""
    starts, sizes = _sections(runs)
    placed: list[tuple[float, float]] = []
    labels: list[tuple[float, str]] = []
    for index in sorted(range(len(runs)), key=lambda index: (starts[index] != index, -sizes[starts[index]])):
        x = left + runs[index].start * step
        for text in _label_choices(runs[index].label, is_start=starts[index] == index):
            end = x + 4 + font.getlength(text)
            if end <= right and all(end + _GAP <= first or x >= last + _GAP for first, last in placed):
                placed.append((x, end))
                labels.append((x, text))
                break
    height = font.getbbox("X")[3]
    for x, text in labels:
        draw.line((x, top, x, top + height), GRID)
        draw.text((x + 4, top), text, FAINT, font)


def _label_choices(label: str, *, is_start: bool) -> tuple[str, ...]:
    """The texts that can stand for a run, from the longest to the shortest."""
    section = section_of(label)
    short = label.removeprefix(f"{section} ")
    return (label, label.partition(" x")[0], section) if is_start else (short, short.partition(" x")[0])


def _sections(runs: Sequence[BlockRun]) -> tuple[list[int], dict[int, int]]:
    """For each run the index of the run that starts its section; and by that index the section's number of blocks."""
    starts: list[int] = []
    sizes: dict[int, int] = {}
    for index, run in enumerate(runs):
        is_same = index > 0 and section_of(run.label) == section_of(runs[index - 1].label)
        starts.append(starts[-1] if is_same else index)
        sizes[starts[-1]] = sizes.get(starts[-1], 0) + run.count
    return starts, sizes


def _without_number(name: str) -> str:
    stem, _, last = name.rpartition(".")
    return stem if last.isdigit() and stem else name
