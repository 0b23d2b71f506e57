"""Which modules PEFT's rank_pattern and alpha_pattern name.

PEFT takes every name for a regular expression and matches it to the end of a module's name, from a dot on
(`get_pattern_key`). A file must not run regular expressions of its own here: `([\\w.]+)+!` does not come to an end.
Plain names, which PEFT and diffusers write, are looked up; simple expressions are matched within bounds; every other
one is not understood, and modules that it might name are skipped.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from ....core.errors import UnsupportedAdapter

_PLAIN = re.compile(r"\^?(?:[\w.-]|\\[.-])*\$?")

# Letters, classes and one list of alternatives, with a single repetition: no name of a layer makes such an expression
# slow. The longest of them have two numbers of layers.
_ATOM = r"(?:[\w.-]|\\[.dw-]|\[[\w-]+\])"
_SIMPLE = re.compile(rf"\^?(?:{_ATOM}[*+]?)*(?:\((?:\?:)?{_ATOM}*(?:\|{_ATOM}*)*\))?(?:{_ATOM}[*+]?)*\$?")
_LONGEST = 200  # letters of a simple expression
_MOST = 16  # simple expressions in one setting


@dataclass(frozen=True)
class NamePatterns:
    """Patterns by how they are matched, each with its position: of several that fit, PEFT takes the first."""

    ends: dict[str, int]
    whole: dict[str, int]
    simple: tuple[tuple[int, re.Pattern[str]], ...]
    strange: tuple[tuple[int, str], ...]

    def first(self, names: Iterable[str]) -> int | None:
        """The position of the first pattern that fits one of a module's names; None where none does. UnsupportedAdapter
        where a pattern that is not understood stands before it."""
        found = min((place for name in names for place in self._fitting(name)), default=None)
        for place, pattern in self.strange:
            if found is None or place < found:
                raise UnsupportedAdapter(
                    f"its scale: expected PEFT's settings in its metadata to name modules, found the expression "
                    f"{ascii(pattern)[:80]}, which is not understood"
                )
        return found

    def _fitting(self, name: str) -> Iterable[int]:
        starts = (0, *(dot.end() for dot in re.finditer(r"\.", name)))
        yield from (self.ends[name[start:]] for start in starts if name[start:] in self.ends)
        if name in self.whole:
            yield self.whole[name]
        yield from (place for place, pattern in self.simple if pattern.match(name))


@lru_cache(maxsize=8)  # asked for every module of a file, which may have a pattern for each
def name_patterns(patterns: tuple[str, ...]) -> NamePatterns:
    """Sort patterns by how they can be matched."""
    ends: dict[str, int] = {}
    whole: dict[str, int] = {}
    simple: list[tuple[int, re.Pattern[str]]] = []
    strange: list[tuple[int, str]] = []
    for place, pattern in enumerate(patterns):
        if _PLAIN.fullmatch(pattern):
            name = re.sub(r"\\(.)", r"\1", pattern.removeprefix("^").removesuffix("$"))
            (whole if pattern.startswith("^") else ends).setdefault(name, place)
        elif (expression := _simple(pattern)) is not None and len(simple) < _MOST:
            simple.append((place, expression))
        else:
            strange.append((place, pattern))
    return NamePatterns(ends, whole, tuple(simple), tuple(strange))


def _simple(pattern: str) -> re.Pattern[str] | None:
    """PEFT's own expression for a simple pattern; None where it is not simple."""
    if len(pattern) > _LONGEST or pattern.count("*") + pattern.count("+") > 1 or not _SIMPLE.fullmatch(pattern):
        return None
    try:
        return re.compile(rf"(?:.*\.)?(?:{pattern})$")
    except re.error:  # a class such as [9-0]
        return None
