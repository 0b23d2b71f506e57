"""Says what a run would do with every file. Nothing is written or locked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ....core.library.entry import Entry
from ....core.library.schedule import LibraryFile
from .batch import Batch
from .differences import describe_changes
from .earlier import EarlierRuns
from .run import plan_library


@dataclass(frozen=True)
class Preview:
    """What a run would do with a file.

    entry: its line of an earlier run if it is done; else what the run would find, as far as a plan shows it. done: it
    would be skipped. output: the path that it would write below the folder of results; None if it would write nothing.
    replaces: what is there now, and why it would be replaced; empty if nothing would be.
    """

    entry: Entry
    done: bool = False
    output: str | None = None
    replaces: str = ""

    def as_json(self) -> dict[str, Any]:
        planned = {"done_before": self.done, "would_write": self.output, "would_replace": self.replaces or None}
        return {**self.entry.as_json(), **planned}


def preview_library(
    files: Sequence[LibraryFile], remaining: Sequence[LibraryFile], batch: Batch, earlier: EarlierRuns
) -> Iterator[Preview]:
    """What a run would do with each of the files; first those that are done. remaining: the others."""
    done = {file.name for file in files} - {file.name for file in remaining}
    yield from (Preview(entry, done=True) for entry in earlier.lines_of(done))
    for file, entry in zip(remaining, plan_library(remaining, batch, files), strict=True):
        yield _preview_output(entry, file, batch, earlier) if entry.outcome == "planned" else Preview(entry)


def _preview_output(planned: Entry, file: LibraryFile, batch: Batch, earlier: EarlierRuns) -> Preview:
    """What the planned result would meet in the folder of results."""
    before = earlier.output_before(file)
    if (reason := earlier.output.why_not_written(file.output, before)) is not None:
        return Preview(replace(planned, outcome="failed", reason=reason))
    replaces = "" if earlier.output.size(file.output) is None else _why_replaced(planned, file, batch, earlier)
    return Preview(planned, output=file.output, replaces=replaces)


def _why_replaced(planned: Entry, file: LibraryFile, batch: Batch, earlier: EarlierRuns) -> str:
    entry = earlier.entries.get(file.name)
    if earlier.output_before(file) is None:
        return "a file that no run wrote"
    if entry is None or entry.output is None or entry.output.path != file.output:
        return "an earlier result"
    if changes := batch.job.changes_since(entry):
        return f"an earlier result: {describe_changes(changes)}"
    changed = entry.file.fingerprint != planned.file.fingerprint
    return "an earlier result: the LoRA has changed since" if changed else "an earlier result"
