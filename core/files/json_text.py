"""JSON out of files that strangers wrote."""

import json
from typing import Any, cast

LONGEST = 4_000_000  # characters; the longest of these entries known, tags with their counts, has 1,000,000
_DEEPEST = 32  # what is written again goes two levels deeper; Python itself gives up at some hundreds


def read_json(text: str) -> Any:
    """The value of a JSON text; ValueError where it is none, or longer or deeper than any that is of use."""
    if len(text) > LONGEST:
        raise ValueError(f"it has {len(text):,} characters, where {LONGEST:,} are the most that is read")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        level = [part for one in level for part in _parts(one)]
        if not level:
            return value
    raise ValueError("it is nested too deep")


def _parts(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(cast("dict[str, Any]", value).values())
    return cast("list[Any]", value) if isinstance(value, list) else []
