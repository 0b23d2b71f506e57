"""Says what a run has kept on disk."""

from ...core.reports.line import Line
from ...core.resources import Resources


def cache_lines(using: Resources) -> tuple[Line, ...]:
    """A line with the size and the folder of the decomposed layers that this run has stored; none if it stored none."""
    cache = using.cache
    if cache is None or cache.written == 0:
        return ()
    return (
        Line(
            "plain",
            f"Kept {_size(cache.written)} of decomposed layers in {cache.folder}, so that the next LoRA between these "
            "bases is faster.",
        ),
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
