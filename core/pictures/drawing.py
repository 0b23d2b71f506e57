"""What all pictures share: the palette, the header, shortened names, and runs of blocks."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from PIL import ImageDraw, ImageFont

BACKGROUND, TEXT, FAINT, LINE, ZERO, HATCH = "#1e1e22", "#ececf0", "#9a9aa4", "#3a3a40", "#6c6c76", "#5c5c66"
GREEN, ORANGE, BLUE, RED = "#5ec962", "#ff9f43", "#4cc9f0", "#ff5f57"
PURPLE, YELLOW, PINK = "#c77dff", "#ffd166", "#f28482"
MARGIN = 28  # pixels
_LETTERS, _SENTENCE_LINES = 44, 3

# viridis (S. van der Walt and N. Smith, CC0) in nine even steps: perceptually uniform, and safe for colour-blind
# people.
_VIRIDIS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def draw_header(draw: ImageDraw.ImageDraw, title: str, names: str, sentence: str, width: int) -> None:
    """Draw a title, the names of the models and the report's sentence into the upper 140 pixels."""
    draw.text((MARGIN, 18), title, TEXT, ImageFont.load_default(28))
    draw.text((MARGIN, 54), names, TEXT, ImageFont.load_default(16))
    font = ImageFont.load_default(15)
    for row, line in enumerate(_break_lines(sentence, font, width - 2 * MARGIN)):
        draw.text((MARGIN, 78 + 20 * row), line, FAINT, font)


def shorten(name: str, letters: int = _LETTERS) -> str:
    """Cut the beginning of a long name: names of models and layers differ at their ends."""
    return name if len(name) <= letters else "…" + name[-letters + 1 :]


def similarity_colour(share: float) -> tuple[int, int, int]:
    """The colour of a similarity above chance; values outside [0, 1] are clamped."""
    position = min(1.0, max(0.0, share)) * (len(_VIRIDIS) - 1)
    index = min(int(position), len(_VIRIDIS) - 2)
    low, high = _rgb(_VIRIDIS[index]), _rgb(_VIRIDIS[index + 1])
    red, green, blue = (round(a + (b - a) * (position - index)) for a, b in zip(low, high, strict=True))
    return red, green, blue


@dataclass(frozen=True)
class BlockRun:
    """Consecutive blocks whose names differ only in their last number, such as 19 "double_blocks"."""

    name: str
    start: int
    count: int

    @property
    def label(self) -> str:
        return shorten(self.name) if self.count == 1 else f"{shorten(self.name)}  x{self.count}"


def block_runs(names: Iterable[str]) -> list[BlockRun]:
    """Group block names, in model order, into runs. A block without similar neighbours is a run of one."""
    runs: list[BlockRun] = []
    start = 0
    for stem, group in groupby(names, key=_without_number):
        blocks = list(group)
        runs.append(BlockRun(stem if len(blocks) > 1 else blocks[0], start, len(blocks)))
        start += len(blocks)
    return runs


def _without_number(name: str) -> str:
    stem, _, last = name.rpartition(".")
    return stem if last.isdigit() and stem else name


def _rgb(code: str) -> tuple[int, int, int]:
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def _break_lines(text: str, font: Font, width: int) -> list[str]:
    """Break a sentence between words. Text that does not fit on the last line is cut; the report has all of it."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        elif len(lines) == _SENTENCE_LINES:
            return [*lines[:-1], f"{lines[-1][:-1]}…"]
        else:
            lines.append(word)
    return lines
