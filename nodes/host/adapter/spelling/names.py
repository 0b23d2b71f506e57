"""Names of modules that ComfyUI's key maps lack, from names.txt.

A line there has the model's own name, then the other names of the same module. `*` stands for a number. Names in braces
are rows of the module, in order; the last word says how many rows each of them has:

    equal     all the same number
    columns   as many as the weight has columns, and the last has the rest: q, k, v and an MLP in one weight
    qkv       three times as many as the weight has columns, and the rest: q, k and v in one, and an MLP
    grouped   q as many as the weight has columns, k and v half of the rest each: fewer heads for k and v

`swapped` means that the two halves of the rows (scale and shift, or gate and value) change places.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import comfy.utils

_ROWS = {
    "equal": lambda rows, columns, parts: [rows // parts] * parts,
    "columns": lambda rows, columns, parts: [columns] * (parts - 1) + [rows - columns * (parts - 1)],
    "qkv": lambda rows, columns, parts: [3 * columns, rows - 3 * columns],
    "grouped": lambda rows, columns, parts: [columns] + [(rows - columns) // (parts - 1)] * (parts - 1),
}
_SWAPPED = "swapped"

_BRACES = re.compile(r"(.*)\{(.*)\}(.*)")
_NUMBER = re.compile(r"(?<![^.k])\d+(?![^.])")  # between dots, or in Cosmos' `block3`


class _Rule(NamedTuple):
    """One line: the model's own name, the other names, and the last word or ""."""

    own: str
    others: tuple[str, ...]
    word: str


def extra_names(config: Any, shapes: Mapping[str, tuple[int, ...]], prefix: str) -> dict[str, Any]:
    """Name -> target, as in ComfyUI's key maps, for a model of this configuration of ComfyUI's.

    shapes: the model's parameters by key, each of which begins with `prefix` (`diffusion_model.`).
    """
    families = {parent.__name__ for parent in type(config).__mro__}
    rules = [rule for family, rule in names_table() if family in families]
    by_template: dict[str, list[_Rule]] = {}
    for rule in rules:
        by_template.setdefault(rule.own, []).append(rule)
    names: dict[str, Any] = {}
    for key, shape in shapes.items():
        own = key.removeprefix(prefix).removesuffix(".weight")
        for template, numbers in templates_of(own) if key.endswith(".weight") else ():
            for rule in by_template.get(template, ()):
                names |= _apply_rule(rule, numbers, key, shape)
    return names


def _apply_rule(rule: _Rule, numbers: tuple[str, ...], key: str, shape: tuple[int, ...]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for template in rule.others:
        name = _fill_template(template, numbers)
        braces = _BRACES.fullmatch(name)
        if braces is None:
            names[name] = (key, None, comfy.utils.swap_scale_shift) if rule.word == _SWAPPED else key
            continue
        parts = braces[2].split(",")
        lengths = _ROWS[rule.word](shape[0], shape[1], len(parts))
        starts = accumulate(lengths, initial=0)
        for part, start, length in zip(parts, starts, lengths, strict=False):
            names[f"{braces[1]}{part}{braces[3]}"] = key, (0, start, length)
    return names


def templates_of(own: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The templates that a name may come from, each with the numbers of its stars. The first numbers, those of blocks,
    become stars; the last may belong to the name, as in `ffn.0`. So every count of stars is tried."""
    matches = list(_NUMBER.finditer(own))
    for count in range(len(matches) + 1):
        template, end = "", 0
        for match in matches[:count]:
            template += own[end : match.start()] + "*"
            end = match.end()
        yield template + own[end:], tuple(match[0] for match in matches[:count])


def _fill_template(template: str, numbers: tuple[str, ...]) -> str:
    for number in numbers:
        template = template.replace("*", number, 1)
    return template


@cache
def names_table() -> tuple[tuple[str, _Rule], ...]:
    """(ComfyUI's class of model, rule) for every line of names.txt."""
    rules: list[tuple[str, _Rule]] = []
    families: list[str] = []
    for line in (Path(__file__).parent / "names.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            families = line.strip("[]").split()
        elif line and not line.startswith("#"):
            own, *others = line.split()
            word = others.pop() if others[-1] in (*_ROWS, _SWAPPED) else ""
            rules += [(family, _Rule(own, tuple(others), word)) for family in families]
    return tuple(rules)
