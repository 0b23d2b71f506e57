"""Progress callbacks, which can also cancel a run."""

from typing import Protocol


class Progress(Protocol):
    """Called before each layer and once at the end. Raises to cancel the run."""

    def __call__(self, done: int, total: int, layer: str) -> None: ...


def ignore_progress(done: int, total: int, layer: str) -> None:
    """Reports no progress."""
