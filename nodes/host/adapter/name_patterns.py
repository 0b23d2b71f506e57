"""Finds the modules that PEFT's rank_pattern and alpha_pattern name.

PEFT treats every pattern as a regular expression and matches it to the end of a module's name, starting at a dot
(`get_pattern_key`). Expressions from a file are not safe to run: `([\\w.]+)+!` never ends. So plain names, which PEFT
and diffusers write, are looked up, and simple expressions are matched within limits. Any other expression is not
understood, and modules that it may name are skipped.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from ....core.errors import UnsupportedAdapter

_PLAIN = re.compile(r"\^?(?:[\w.-]|\\[.-])*\$?")

# Letters, classes and one list of alternatives, with a single repetition: such an expression is fast for every name of
# a layer.
_ATOM = r"(?:[\w.-]|\\[.dw-]|\[[\w-]+\])"
_SIMPLE = re.compile(rf"\^?(?:{_ATOM}[*+]?)*(?:\((?:\?:)?{_ATOM}*(?:\|{_ATOM}*)*\))?(?:{_ATOM}[*+]?)*\$?")
_LONGEST = 200  # letters of a simple expression
_MOST = 16  # simple expressions in one setting


@dataclass(frozen=True)
class NamePatterns:
    """Patterns by how they are matched, each with its position: if several match, PEFT uses the first."""

    ends: dict[str, int]
    whole: dict[str, int]
    simple: tuple[tuple[int, re.Pattern[str]], ...]
    unknown: tuple[tuple[int, str], ...]

    def first(self, names: Iterable[str]) -> int | None:
        """The position of the first pattern that matches one of a module's names, or None. UnsupportedAdapter if a
        pattern before it is not understood."""
        first = min((position for name in names for position in self._matches(name)), default=None)
        for position, pattern in self.unknown:
            if first is None or position < first:
                raise UnsupportedAdapter(
                    "its scale: expected names of modules in PEFT's settings in the metadata, found the expression "
                    f"{ascii(pattern)[:80]}, which is not understood"
                )
        return first

    def _matches(self, name: str) -> Iterable[int]:
        starts = (0, *(dot.end() for dot in re.finditer(r"\.", name)))
        yield from (self.ends[name[start:]] for start in starts if name[start:] in self.ends)
        if name in self.whole:
            yield self.whole[name]
        yield from (position for position, pattern in self.simple if pattern.match(name))


@lru_cache(maxsize=8)  # called for every module of a file, and the file may have a pattern for each
def name_patterns(patterns: tuple[str, ...]) -> NamePatterns:
    """Sort patterns by how they can be matched."""
    ends: dict[str, int] = {}
    whole: dict[str, int] = {}
    simple: list[tuple[int, re.Pattern[str]]] = []
    unknown: list[tuple[int, str]] = []
    for position, pattern in enumerate(patterns):
        if _PLAIN.fullmatch(pattern):
            name = re.sub(r"\\(.)", r"\1", pattern.removeprefix("^").removesuffix("$"))
            (whole if pattern.startswith("^") else ends).setdefault(name, position)
        elif (expression := _simple(pattern)) is not None and len(simple) < _MOST:
            simple.append((position, expression))
        else:
            unknown.append((position, pattern))
    return NamePatterns(ends, whole, tuple(simple), tuple(unknown))


def _simple(pattern: str) -> re.Pattern[str] | None:
    """PEFT's expression for a simple pattern; None if the pattern is not simple."""
    if len(pattern) > _LONGEST or pattern.count("*") + pattern.count("+") > 1 or not _SIMPLE.fullmatch(pattern):
        return None
    try:
        return re.compile(rf"(?:.*\.)?(?:{pattern})$")
    except re.error:  # a class such as [9-0]
        return None
