"""Detects that a file changed while it is in use: the state of a file, and reads that check it."""

import contextlib
import os
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

from ..errors import ChangedFile, UnreadableFile

# Nanoseconds. A kernel takes file times from a clock that ticks every 1 to 16 ms: two changes within one tick have the
# same time. The coarsest file systems (FAT) store times in steps of two seconds.
_TICK, _COARSEST = 20_000_000, 2_000_000_000


@dataclass(frozen=True)
class FileState:
    """The state of a file, to compare with later.

    modified: the time of the last change of the content, in nanoseconds. changed: the time of the last change of
    content, name or rights (on Windows the creation time). Copying tools restore `modified`, but not `changed`.
    settled: False if the last change is so recent that another change could have the same times.
    """

    size: int
    modified: int
    changed: int
    device: int
    inode: int
    settled: bool = field(default=True, compare=False)

    @staticmethod
    def of(status: os.stat_result) -> "FileState":
        times = status.st_mtime_ns, status.st_ctime_ns
        settled = _age(status) > _COARSEST
        return FileState(status.st_size, *times, status.st_dev, status.st_ino, settled)

    def is_older_than(self, moment: float) -> bool:
        """Whether the last change was before a moment in seconds since 1970, also on file systems with coarse times."""
        return max(self.modified, self.changed) + _COARSEST < moment * 1e9

    def mark(self) -> str:
        """The state as text. Equal marks of one path mean equal content if both states were settled."""
        return f"{self.size} {self.modified} {self.changed} {self.device} {self.inode}"


def state_when_opened(stream: BufferedReader) -> FileState:
    """The state of an open file.

    Waits for the end of the clock tick in which the file was last changed, so that every later change gives another
    state.
    """
    status = os.fstat(stream.fileno())
    while 0 <= (age := _age(status)) < _TICK:
        time.sleep((_TICK - age) / 1e9)
    return FileState.of(status)


def state_at(path: Path) -> FileState | None:
    """The current state of the file at a path; None if there is none, or it is not accessible."""
    with contextlib.suppress(OSError):
        return FileState.of(path.stat())
    return None


@contextlib.contextmanager
def open_unchanged(path: Path, state: FileState | None) -> Generator[BufferedReader, None, None]:
    """Open a file for reading, and check before and after reading that it is in the expected state.

    state: None accepts any state. ChangedFile if the state differs, UnreadableFile if the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            _require(path, stream, state)
            try:
                yield stream
            except Exception:
                _require(path, stream, state)  # if the file changed, that is the cause of the error
                raise
            _require(path, stream, state)
    except FileNotFoundError as error:
        raise ChangedFile(
            f"File {path}: it was removed after it was loaded. Put it back and run the workflow again."
        ) from error
    except OSError as error:
        raise UnreadableFile(
            f"File {path}: it cannot be read ({error.strerror or error}). Check the disk and the file's permissions."
        ) from error


@contextlib.contextmanager
def unchanged(path: Path, state: FileState | None) -> Generator[None, None, None]:
    """As open_unchanged, for readers that open the path themselves. state: None accepts any state. ChangedFile if the
    state differs before or after the block."""
    _require_at(path, state)
    try:
        yield
    except Exception:
        _require_at(path, state)
        raise
    _require_at(path, state)


def _require_at(path: Path, state: FileState | None) -> None:
    if state is not None and state_at(path) != state:
        raise _changed(path)


def _changed(path: Path) -> ChangedFile:
    return ChangedFile(
        f"File {path}: it was changed, replaced or cut short after it was loaded. Run the workflow again to reload it."
    )


def _require(path: Path, stream: BufferedReader, state: FileState | None) -> None:
    if state is not None and FileState.of(os.fstat(stream.fileno())) != state:
        raise _changed(path)


def _age(status: os.stat_result) -> int:
    """Nanoseconds since the last change; negative if the file system's clock is ahead."""
    return time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
