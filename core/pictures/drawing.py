"""What all pictures share: the palette, sizes, titles, hatchings and shortened names."""

import re
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

BACKGROUND, TEXT, FAINT, LINE, ZERO, HATCH = "#1e1e22", "#ececf0", "#9a9aa4", "#3a3a40", "#6c6c76", "#5c5c66"
EMPTY, GRID = "#2a2a30", "#4c4c55"
GREEN, ORANGE, BLUE, RED = "#5ec962", "#ff9f43", "#4cc9f0", "#ff5f57"
PURPLE, YELLOW, PINK = "#c77dff", "#ffd166", "#f28482"
MARGIN = 28  # pixels
_LETTERS, _SENTENCE_LINES = 44, 3

# viridis (S. van der Walt and N. Smith, CC0) in nine even steps: perceptually uniform, and safe for colour-blind
# people. web/layer_picture/colours.js has the same colours.
VIRIDIS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")

_ENDINGS = re.compile(r"\.(?:safetensors|sft|gguf|ckpt|pt|bin)$", re.IGNORECASE)

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


@dataclass(frozen=True)
class Size:
    """How large a picture is. width: pixels; of a picture that is as wide as its contents, the least. title, text,
    label: sizes of fonts in pixels. has_figures: whether cells hold their figures."""

    width: int
    title: int
    text: int
    label: int
    has_figures: bool


NODE = Size(width=1024, title=40, text=28, label=24, has_figures=False)  # legible on a node 400 pixels wide
FILE = Size(width=1240, title=28, text=17, label=13, has_figures=True)  # for those who save it: all figures


def draw_header(draw: ImageDraw.ImageDraw, title: str, names: str, sentence: str, width: int) -> None:
    """Draw a title, the names of the models and the report's sentence into the upper 140 pixels."""
    draw.text((MARGIN, 18), title, TEXT, ImageFont.load_default(28))
    draw.text((MARGIN, 54), names, TEXT, ImageFont.load_default(16))
    font = ImageFont.load_default(15)
    for row, line in enumerate(_break_lines(sentence, font, width - 2 * MARGIN)):
        draw.text((MARGIN, 78 + 20 * row), line, FAINT, font)


def draw_titles(
    draw: ImageDraw.ImageDraw, size: Size, title: str, bases: tuple[str, str], lines: tuple[str, ...], width: int
) -> int:
    """Draw the title, the names of both bases and lines of text; each is cut where the picture ends. Returns the
    height that they take."""
    y = 18
    draw.text((MARGIN, y), title, TEXT, ImageFont.load_default(size.title))
    y += round(1.3 * size.title)
    font, room = ImageFont.load_default(size.text), width - 2 * MARGIN
    source, target = (file_title(name) for name in bases)
    together = f"{source}  to  {target}"
    names = [("", together)] if font.getlength(together) <= room else [("from ", source), ("to ", target)]
    for word, name in names:
        draw.text((MARGIN, y), word + fit(name, font, room - font.getlength(word)), TEXT, font)
        y += _line(size)
    font = ImageFont.load_default(round(0.9 * size.text))
    for text in lines:
        draw.text((MARGIN, y), fit(text, font, room), FAINT, font)
        y += _line(size)
    return y + 12


def _line(size: Size) -> int:
    return round(1.35 * size.text)


def fit(text: str, font: Font, width: float) -> str:
    """Cut letters from the beginning of a text until it is no wider than `width` pixels."""
    letters = len(text)
    while letters > 1 and font.getlength(shorten(text, letters)) > width:
        letters -= 1
    return shorten(text, letters)


def cut_end(text: str, font: Font, width: float) -> str:
    """Cut letters from the end of a sentence until it is no wider than `width` pixels."""
    letters = len(text)
    while letters > 1 and font.getlength(_beginning(text, letters)) > width:
        letters -= 1
    return _beginning(text, letters)


def _beginning(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"


def shorten(name: str, letters: int = _LETTERS) -> str:
    """Cut the beginning of a long name: names of models and layers differ at their ends."""
    return name if len(name) <= letters else "…" + name[-letters + 1 :]


def file_title(name: str) -> str:
    """A file's name without its folder and its ending."""
    return _ENDINGS.sub("", re.split(r"[\\/]", name)[-1])


def similarity_colour(share: float) -> tuple[int, int, int]:
    """The colour of a similarity above chance; values outside [0, 1] are clamped."""
    position = min(1.0, max(0.0, share)) * (len(VIRIDIS) - 1)
    index = min(int(position), len(VIRIDIS) - 2)
    low, high = _rgb(VIRIDIS[index]), _rgb(VIRIDIS[index + 1])
    red, green, blue = (round(a + (b - a) * (position - index)) for a, b in zip(low, high, strict=True))
    return red, green, blue


def ink_on(colour: tuple[int, int, int]) -> str:
    """The colour of a figure that can be read on a colour."""
    red, green, blue = colour
    return "#101014" if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else "#f4f4f8"


def draw_ramp(draw: ImageDraw.ImageDraw, left: int, top: int, width: int, height: int) -> None:
    """Draw all colours of similarities, from chance to equal."""
    for step in range(width):
        draw.line((left + step, top, left + step, top + height), similarity_colour(step / (width - 1)))


class Hatching:
    """Fills boxes with lines (`lattice` off) or with a lattice, in one colour."""

    def __init__(self, colour: str, *, lattice: bool, spacing: int = 7) -> None:
        self._colour, self._spacing, self._lattice = colour, spacing, lattice
        self._masks: dict[tuple[int, int], Image.Image] = {}

    def fill(self, picture: Image.Image, box: tuple[int, int, int, int]) -> None:
        """box: left, top, right and bottom; the last two belong to it."""
        left, top, right, bottom = box
        picture.paste(self._colour, (left, top), self._mask(right - left + 1, bottom - top + 1))

    def _mask(self, width: int, height: int) -> Image.Image:
        if (width, height) not in self._masks:
            mask = Image.new("L", (width, height))
            draw = ImageDraw.Draw(mask)
            for start in range(-height, width + height, self._spacing):
                draw.line((start, height, start + height, 0), 255)
                if self._lattice:
                    draw.line((start, 0, start + height, height), 255)
            self._masks[width, height] = mask
        return self._masks[width, height]


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
