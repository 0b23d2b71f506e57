"""Decides which files of a library are still to be done, and in which batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..reports.envelope import Identity
from .entry import Entry, FileMark

MOST_IN_BATCH = 16  # more share the reading of the bases among so many that it no longer shows, and a kill loses more


@dataclass(frozen=True)
class LibraryFile:
    """An adapter file of a library. name: its path below the folder that was searched, with `/`. output: the path of
    the transferred file below the output folder, with `/`."""

    path: Path
    name: str
    output: str


@dataclass(frozen=True)
class Change:
    """A difference between two jobs. name: `source`, `target`, or that of a setting. For a base, the values are its
    names, which may be equal although the contents are not. None: the earlier job did not know the setting."""

    name: str
    before: Any
    now: Any


@dataclass(frozen=True)
class Job:
    """What a run does to every file: equal jobs give equal results for equal files."""

    source: Identity
    target: Identity
    settings: Mapping[str, Any]

    def gave(self, entry: Entry) -> bool:
        """Whether an entry is a result of this job. The names of the bases do not matter, only their content."""
        bases = (self.source.fingerprint, self.target.fingerprint)
        return (entry.source.fingerprint, entry.target.fingerprint) == bases and dict(entry.settings) == dict(
            self.settings
        )

    def changes_since(self, entry: Entry) -> tuple[Change, ...]:
        """What this job does otherwise than the one that an entry is a result of; empty if it gave the entry."""
        bases = (("source", entry.source, self.source), ("target", entry.target, self.target))
        changes = [Change(name, old.name, new.name) for name, old, new in bases if old.fingerprint != new.fingerprint]
        names = dict.fromkeys((*self.settings, *entry.settings))
        values = [(name, entry.settings.get(name), self.settings.get(name)) for name in names]
        return (*changes, *(Change(*value) for value in values if value[1] != value[2]))


def is_done(
    entry: Entry | None,
    file: LibraryFile,
    job: Job,
    mark: FileMark | None,
    output_size: Callable[[str], int | None],
    hash_file: Callable[[Path], str | None],
) -> bool:
    """Whether a file needs no work: the job is the same, the file did not change, and its output is still there.

    entry: the file's line in the manifest. mark: its size and time now; None if it is not there. output_size: the size
    of an output file, None if it is not there. hash_file: the fingerprint of the file; it is called only if the file
    has the size but not the time of the entry, as after a copy.
    """
    if entry is None or entry.outcome == "failed" or not job.gave(entry):
        return False
    output = entry.output
    if output is not None and (output.path != file.output or output_size(output.path) != output.size):
        return False
    if mark is None or mark.size != entry.file.size:
        return False
    known = entry.file.fingerprint
    return mark.modified == entry.file.modified or (known is not None and hash_file(file.path) == known)


def batches(sizes: Sequence[int], limit: int, most: int = MOST_IN_BATCH) -> Iterator[range]:
    """Split files, in their order, into batches of at most `most` files and `limit` bytes; at least one file each."""
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and (index - start == most or total + size > limit):
            yield range(start, index)
            start, total = index, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))
