"""Texts as a terminal can show them."""

import shutil
import sys
import textwrap
from typing import TextIO

_LEAST = 40  # columns; in a narrower terminal, wrapped text would be harder to read than broken lines


def showable(text: str) -> str:
    """The text as the terminal can show it. File names and reasons may hold anything, such as commands to it."""
    plain = "".join(sign if sign.isprintable() or sign == "\n" else "?" for sign in text)
    encoding = sys.stdout.encoding or "utf-8"
    return plain.encode(encoding, "backslashreplace").decode(encoding)


def wrap(text: str, stream: TextIO) -> str:
    """The text with its lines no longer than the terminal is wide; unchanged if the stream is no terminal, because
    scripts read lines. The rest of a line is indented below its beginning."""
    return wrap_to(text, max(_LEAST, shutil.get_terminal_size().columns - 1)) if stream.isatty() else text


def wrap_to(text: str, width: int) -> str:
    """The text with its lines no longer than so many columns, but for words that are longer, such as paths."""
    return "\n".join(wrap_line(line, width) for line in text.split("\n"))


def write(text: str, stream: TextIO | None = None) -> None:
    """Write a text for people, with a line end."""
    chosen: TextIO = stream or sys.stdout
    chosen.write(wrap(showable(text), chosen) + "\n")


def wrap_line(line: str, width: int, hang: str = "    ") -> str:
    """A line with breaks before the words that do not fit. hang: what the rest begins with, behind the spaces that the
    line begins with."""
    if len(line) <= width:
        return line
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line.strip(),
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}{hang}",
        break_long_words=False,
        break_on_hyphens=False,
    )
