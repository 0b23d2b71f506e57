"""The manifest of a library run: JSON Lines, a line for each file that is done. It is all that a run remembers."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UnreadableFile, UnwritableFile
from .entry import Entry, Output

NAME = "manifest.jsonl"


@dataclass(frozen=True)
class Manifest:
    """A manifest file that lines are added to. The last line of a LoRA counts.

    A line is on the disk when `add` returns. Only a process that holds the folder's lock may add lines.
    """

    path: Path

    def entries(self) -> Iterator[Entry]:
        """All lines, oldest first, without a last line that has no end: it is torn, or being written. UnreadableFile
        names the line that is not one of a manifest."""
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith("\n"):
                    return
                try:
                    yield Entry.from_json(json.loads(line))
                except (ValueError, AttributeError) as error:
                    raise UnreadableFile(
                        f"Manifest {self.path}, line {number}: expected a line that this pack wrote, but {error}. "
                        "Remove the line, or move the manifest away to start anew."
                    ) from error

    def latest(self) -> dict[str, Entry]:
        """The last entry of each LoRA. Without sentences and counts, unless it failed: a library can have a hundred
        thousand files."""
        shared: dict[Any, Any] = {}  # the settings and the bases are nearly always the same
        return {entry.lora: _shorten(entry, shared) for entry in self.entries()}

    def older_outputs(self, latest: Mapping[str, Entry]) -> dict[tuple[str, str], Output]:
        """By LoRA and path, the files that were written but are not in the last entry of their LoRA: a later attempt
        failed, or wrote to another path. They are still results. latest: what `latest` gave."""
        written = ((entry.lora, entry.output) for entry in self.entries() if entry.output is not None)
        return {(lora, output.path): output for lora, output in written if not _is_output(latest[lora], output.path)}

    def count_lines(self) -> int:
        """How many lines it has."""
        return sum(1 for _ in self.entries())

    def names_from(self, line: int) -> set[str]:
        """The LoRAs of all lines from this one, counted from 0."""
        return {entry.lora for number, entry in enumerate(self.entries()) if number >= line}

    def last_entries(self) -> Iterator[Entry]:
        """The last entry of each LoRA, whole, in the order of the lines. Reads the file twice instead of keeping it."""
        last = {entry.lora: number for number, entry in enumerate(self.entries())}
        yield from (entry for number, entry in enumerate(self.entries()) if last[entry.lora] == number)

    def add(self, entry: Entry) -> None:
        """Append a line and wait until it is on the disk. UnwritableFile if it cannot be written."""
        line = json.dumps(entry.as_json(), allow_nan=False) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise UnwritableFile(
                f"Manifest {self.path}: it cannot be written ({error.strerror or error}). Free disk space or check the "
                "permissions, and start the run again: it goes on where it stopped."
            ) from error


def _is_output(entry: Entry, path: str) -> bool:
    return entry.output is not None and entry.output.path == path


def _shorten(entry: Entry, shared: dict[Any, Any]) -> Entry:
    if entry.outcome == "failed":
        return entry
    settings = shared.setdefault(json.dumps(dict(entry.settings), sort_keys=True), entry.settings)
    source, target = shared.setdefault(entry.source, entry.source), shared.setdefault(entry.target, entry.target)
    return Entry(entry.lora, entry.file, source, target, settings, entry.outcome, output=entry.output)


def open_manifest(path: Path) -> Manifest:
    """The manifest at a path, whether it exists or not.

    Removes the beginning of a line that a killed run left at the end of the file: call it only with the folder's lock.
    """
    _cut_torn_line(path)
    return Manifest(path)


def _cut_torn_line(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as stream:
        end = stream.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            stream.seek(start)
            newline = stream.read(end - start).rfind(b"\n")
            if newline >= 0:
                stream.truncate(start + newline + 1)
                return
            end = start
        stream.truncate(0)
