"""A lock on a folder: only one process holds it, and the system frees it when that process ends, however it ends."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

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
    """Hold the lock of a folder, which is made if it is missing. Gives the folder for unfinished files, empty.

    FolderInUse if another process holds it; UnwritableFile if nothing can be written, or if the disk has no locks.
    """
    inside = folder / WORK_FOLDER
    try:
        inside.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(inside / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UnwritableFile(
            f"Folder {folder}: it cannot be written ({error.strerror or error}). Choose another folder."
        ) from error
    try:
        _lock_or_explain(descriptor, folder)
        for left_over in inside.glob("*.unfinished"):  # of a run that was killed
            left_over.unlink(missing_ok=True)
        yield inside
    finally:
        os.close(descriptor)  # frees the lock


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
