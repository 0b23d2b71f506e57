"""The progress bar of the command line, with the time that is left."""

import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from ....core.library.schedule import LibraryFile
from ..cluster.worker import Ready
from .say import showable, wrap


class Bars:
    """A bar of files, and beside it the layers of the current batch. They are on the error stream, so that results can
    be piped, and only if a person sees them."""

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        hidden = quiet or not sys.stderr.isatty()
        self._files: Any = tqdm(total=total, unit="LoRA", dynamic_ncols=True, disable=hidden, smoothing=0)

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def layer(self, done: int, total: int, layer: str) -> None:
        """Progress of a Resources: layers of the current step."""
        self._files.set_postfix_str(f"layer {done} of {total}" if total else "", refresh=True)

    def file_done(self) -> None:
        self._files.update()

    def batch(self, ready: Ready, files: Sequence[LibraryFile]) -> None:
        """A worker of a cluster has got files."""
        self._files.set_postfix_str(f"{len(files)} to process {ready.process} on {ready.machine}", refresh=True)

    def note(self, text: str) -> None:
        """Print a sentence above the bar, on the error stream."""
        tqdm.write(wrap(showable(text), sys.stderr), file=sys.stderr)

    def line(self, text: str) -> None:
        """Print a line of the result above the bar, for people."""
        self.raw_line(wrap(showable(text), sys.stdout))

    def raw_line(self, line: str) -> None:
        """Print a line of the result above the bar as it is, for programs."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
