"""JSON out of files that strangers wrote."""

import json
from typing import Any, cast

LONGEST = 4_000_000  # characters; the longest of these entries known, tags with their counts, has 1,000,000
_DEEPEST = 32  # what is written again goes two levels deeper; Python itself gives up at some hundreds
_LARGEST = 1e30  # of a number; seeds have up to 1.8e19, and what is beyond 1e308 fits into no float


def read_json(text: str) -> Any:
    """The value of a JSON text; ValueError where it is none, or longer, deeper or larger than any that is of use."""
    if len(text) > LONGEST:
        raise ValueError(f"it has {len(text):,} characters, where {LONGEST:,} are the most that is read")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        if any(isinstance(one, (int, float)) and not abs(one) <= _LARGEST for one in level):
            raise ValueError("it holds a number that is none, or beyond all use")
        level = [part for one in level for part in _parts(one)]
        if not level:
            return value
    raise ValueError("it is nested too deep")


def _parts(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(cast("dict[str, Any]", value).values())
    return cast("list[Any]", value) if isinstance(value, list) else []
