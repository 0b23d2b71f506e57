"""The engine's one tie to whoever waits for it."""

from typing import Protocol


class Progress(Protocol):
    """Called before each layer and once at the end. It may raise: that is how a run is cancelled."""

    def __call__(self, done: int, total: int, layer: str) -> None: ...


def silent(done: int, total: int, layer: str) -> None:
    """The progress of a caller that does not want to know."""
