"""Files that must not change while they are in use: the state of a file when it was opened, and reads that check it."""

import contextlib
import os
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

from ..errors import ChangedFile, UnreadableFile

# Nanoseconds. A kernel stamps files with a clock that ticks every 1 to 16 ms: two changes within one tick leave the
# same time. The coarsest file systems (FAT) store times in steps of two seconds.
_TICK, _COARSEST = 20_000_000, 2_000_000_000


@dataclass(frozen=True)
class FileState:
    """One state of one file. Times in nanoseconds: `modified` of the content, `changed` of content, name or rights (the
    time of creation on Windows). Restoring `modified` after a change, as copying tools do, leaves `changed` new.

    settled: False where the last change is so recent that the file system may give another one the same times.
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

    def mark(self) -> str:
        """The state as text. Equal marks of a path promise equal content if both states were settled."""
        return f"{self.size} {self.modified} {self.changed} {self.device} {self.inode}"


def state_when_opened(stream: BufferedReader) -> FileState:
    """The state of an open file. Any change after this call gives the file another state: it waits for the end of the
    tick in which the file was last changed."""
    status = os.fstat(stream.fileno())
    while 0 <= (age := _age(status)) < _TICK:
        time.sleep((_TICK - age) / 1e9)
    return FileState.of(status)


def state_at(path: Path) -> FileState | None:
    """The state of the file at a path now; None where there is none that can be looked at."""
    with contextlib.suppress(OSError):
        return FileState.of(path.stat())
    return None


@contextlib.contextmanager
def open_unchanged(path: Path, state: FileState | None) -> Generator[BufferedReader, None, None]:
    """Open a file for reading. ChangedFile where it is in another state than `state` before or after it was read
    (None: in any state); UnreadableFile where it cannot be read."""
    try:
        with path.open("rb") as stream:
            _require(path, stream, state)
            try:
                yield stream
            except Exception:
                _require(path, stream, state)  # what goes wrong in a file that changed goes wrong because it changed
                raise
            _require(path, stream, state)
    except FileNotFoundError as error:
        raise ChangedFile(f"File {path}: it was removed after it was loaded. Put it back and run again.") from error
    except OSError as error:
        raise UnreadableFile(
            f"File {path}: it cannot be read ({error.strerror or error}). Check the disk and the rights, and run again."
        ) from error


@contextlib.contextmanager
def unchanged(path: Path, state: FileState | None) -> Generator[None, None, None]:
    """For readers that open the path themselves: ChangedFile where the file at the path is in another state than
    `state` before or after they read (None: in any state)."""
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
        f"File {path}: it was changed, replaced or cut short after it was loaded. Run the workflow again, which loads "
        "it again."
    )


def _require(path: Path, stream: BufferedReader, state: FileState | None) -> None:
    if state is not None and FileState.of(os.fstat(stream.fileno())) != state:
        raise _changed(path)


def _age(status: os.stat_result) -> int:
    """Nanoseconds since the last change; below 0 where the file system's clock is ahead."""
    return time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
