"""The look that the pictures of a run share: colours, a header, a name cut to what tells models apart."""

from PIL import ImageDraw, ImageFont

BACKGROUND, TEXT, FAINT, LINE, ZERO = "#1e1e22", "#ececf0", "#9a9aa4", "#3a3a40", "#6c6c76"
MARGIN = 28  # pixels
_LETTERS, _SENTENCE_LINES = 44, 3

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def draw_header(draw: ImageDraw.ImageDraw, title: str, names: str, sentence: str, width: int) -> None:
    """A title, what it is of, and the report's sentence: the upper 140 pixels."""
    draw.text((MARGIN, 18), title, TEXT, ImageFont.load_default(28))
    draw.text((MARGIN, 54), names, TEXT, ImageFont.load_default(16))
    font = ImageFont.load_default(15)
    for row, line in enumerate(_lines(sentence, font, width - 2 * MARGIN)):
        draw.text((MARGIN, 78 + 20 * row), line, FAINT, font)


def end_of(name: str) -> str:
    """The end of a name tells models apart, so it is the beginning that goes."""
    return name if len(name) <= _LETTERS else "…" + name[-_LETTERS + 1 :]


def _lines(said: str, font: Font, width: int) -> list[str]:
    """A sentence broken between words; what does not fit on the last line goes, for the report has it."""
    lines = [""]
    for word in said.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        elif len(lines) == _SENTENCE_LINES:
            return [*lines[:-1], f"{lines[-1][:-1]}…"]
        else:
            lines.append(word)
    return lines
