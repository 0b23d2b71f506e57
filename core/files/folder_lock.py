"""A lock on a folder: only one process holds it, and the system frees it when that process ends, however it ends."""

import contextlib
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from uuid import uuid4

from ..errors import FolderInUse, UnwritableFile

if os.name == "nt":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


WORK_FOLDER = ".lora_transfer"  # inside the locked folder: the lock, and files that are not finished


@contextlib.contextmanager
def lock_folder(folder: Path) -> Generator[Path, None, None]:
    """Hold the lock of a folder, which is made if it is missing. Gives a new folder for unfinished files.

    The folders of earlier runs are removed: a process that outlived its run, perhaps on another machine, can then
    finish no file any more.

    FolderInUse if another process holds it; UnwritableFile if nothing can be written, or if the disk has no locks.
    """
    inside = folder / WORK_FOLDER
    try:
        inside.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(inside / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise _not_writable(folder, error) from error
    try:
        _lock_or_explain(descriptor, folder)
        _remove_unfinished(inside)
        yield _new_folder(inside, folder)
        _remove_unfinished(inside)
    finally:
        os.close(descriptor)  # frees the lock


def _new_folder(inside: Path, folder: Path) -> Path:
    path = inside / f"unfinished-{uuid4().hex}"
    try:
        path.mkdir()
    except OSError as error:
        raise _not_writable(folder, error) from error
    return path


def _remove_unfinished(inside: Path) -> None:
    """Remove what this run or a killed one left unfinished."""
    for path in inside.glob("*unfinished*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _not_writable(folder: Path, error: OSError) -> UnwritableFile:
    return UnwritableFile(f"Folder {folder}: it cannot be written ({error.strerror or error}). Choose another folder.")


def _lock_or_explain(descriptor: int, folder: Path) -> None:
    try:
        _lock(descriptor)
    except (BlockingIOError, PermissionError) as error:
        raise FolderInUse(
            f"Folder {folder}: another run is writing there. Wait until it ends, or choose another folder."
        ) from error
    except OSError as error:
        raise UnwritableFile(
            f"Folder {folder}: its disk has no locks ({error.strerror or error}), so two runs could spoil each other's "
            "work. Choose a folder on another disk."
        ) from error
