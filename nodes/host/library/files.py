"""Finds the LoRA files of a library, and says where each result goes."""

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ....core.errors import InvalidSetting, UnreadableFile
from ....core.files import file_sha256
from ....core.library.entry import FileMark
from ....core.library.schedule import LibraryFile

SUFFIXES = (".safetensors", ".sft", ".pt", ".bin", ".ckpt", ".pth")


def find_files(
    inputs: Sequence[str], suffix: str = "", *, skip: Path | None = None, subfolders: bool = True
) -> list[LibraryFile]:
    """The files of a list of files, folders and patterns, each once, in a fixed order.

    suffix: is added to the name of every result. skip: a folder whose files are left out (that of the results).
    Results keep the folders below the folder that was named, or below the first folder of a pattern without a wildcard.
    UnreadableFile if an input names nothing, InvalidSetting for a suffix that is not part of a file name.
    """
    if any(sign in suffix for sign in "/\\\0"):
        raise InvalidSetting(f"Suffix {suffix!r}: expected a part of a file name, found a path. Use --out for folders.")
    left_out = None if skip is None else skip.resolve()
    files: dict[str, LibraryFile] = {}
    names: set[str] = set()
    for text in inputs:
        for root, path in _expand(text, subfolders):
            absolute = os.path.abspath(path)
            if absolute in files or (left_out is not None and path.resolve().is_relative_to(left_out)):
                continue
            below_root = path.relative_to(root)
            # Files of one name from several inputs have to differ in the manifest.
            name = below_root.as_posix() if below_root.as_posix() not in names else Path(absolute).as_posix()
            names.add(name)
            files[absolute] = LibraryFile(
                Path(absolute), name, below_root.with_suffix("").as_posix() + f"{suffix}.safetensors"
            )
    return list(files.values())


def find_doubles(files: Iterable[LibraryFile]) -> dict[str, LibraryFile]:
    """By name, the files whose result would have the path of an earlier file's, with that earlier file. Many disks do
    not tell capital letters from small ones."""
    first: dict[str, LibraryFile] = {}
    earlier = {file.name: first.setdefault(file.output.casefold(), file) for file in files}
    return {name: file for name, file in earlier.items() if file.name != name}


def mark_at(path: Path) -> FileMark | None:
    """The size and time of a file; None if there is no regular file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return FileMark(status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def hash_of(path: Path) -> str | None:
    """The fingerprint of a file; None if it cannot be read."""
    try:
        return file_sha256(path)
    except UnreadableFile:
        return None


def _expand(text: str, subfolders: bool) -> Iterator[tuple[Path, Path]]:
    """(root, file) for every file that an input names."""
    path = Path(text).expanduser()
    if path.is_dir():
        yield from ((path, file) for file in _walk(path, subfolders))
        return
    if os.path.lexists(path):
        yield path.parent, path
        return
    pattern = str(path)
    matches = sorted(Path(match) for match in glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else []
    root = _root_of(path)
    files = [file for match in matches for file in (_walk(match, subfolders) if match.is_dir() else [match])]
    if not files:
        raise UnreadableFile(f"LoRAs {text}: expected a file, a folder or a pattern of files, found nothing there.")
    yield from ((root, file) for file in files if file.suffix.lower() in SUFFIXES)


def _root_of(pattern: Path) -> Path:
    """The longest folder of a pattern that has no wildcard."""
    parts = pattern.parts
    plain = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:plain])


def _walk(folder: Path, subfolders: bool) -> Iterator[Path]:
    """All LoRA files below a folder, in the order of their names. Links are followed; no folder is entered
    twice."""
    entered = {os.path.realpath(folder)}
    for current, folders, names in os.walk(folder, followlinks=True):
        kept = [name for name in sorted(folders) if os.path.realpath(os.path.join(current, name)) not in entered]
        entered.update(os.path.realpath(os.path.join(current, name)) for name in kept)
        folders[:] = kept if subfolders else []
        yield from (Path(current, name) for name in sorted(names) if name.lower().endswith(SUFFIXES))
