"""Parses JSON from untrusted files, with limits on length and depth."""

import json
from typing import Any, cast

LONGEST = 4_000_000  # characters; the longest known text, tags with their counts, has 1,000,000
_DEEPEST = 32  # Python's own limit is some hundreds, and we write values back two levels deeper


def read_json(text: str) -> Any:
    """Parse a JSON text. ValueError if it is not JSON, too long, or nested too deeply."""
    if len(text) > LONGEST:
        raise ValueError(f"it has {len(text):,} characters, more than the limit of {LONGEST:,}")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return value
    raise ValueError("it is nested too deeply")


def _children(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(cast("dict[str, Any]", value).values())
    return cast("list[Any]", value) if isinstance(value, list) else []
