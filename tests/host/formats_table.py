"""The table in docs/formats.md, made of what the reader really does."""

import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "formats.md"


def prefixes_in_the_document() -> tuple[str, ...]:
    """The prefixes that docs/formats.md lists."""
    part = re.search(r"<!-- prefixes -->(.*)<!-- end of prefixes -->", DOCUMENT.read_text(), re.DOTALL)
    assert part is not None
    return tuple(re.findall(r"^\| `(\S+)`", part[1], re.MULTILINE))
