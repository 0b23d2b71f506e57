"""What earlier runs left in a folder of results. Reading it changes nothing there."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ....core.files.folder_lock import WORK_FOLDER
from ....core.library.entry import Entry, Output
from ....core.library.manifest import NAME, Manifest
from ....core.library.schedule import Change, Job, LibraryFile, is_done
from .files import hash_of, mark_at
from .write import MOVE_AWAY, OutputFolder

OVERWRITE = "overwrite"  # a file: the line of the manifest where a run that does everything again began


@dataclass(frozen=True)
class EarlierRuns:
    """The results of earlier runs.

    entries: the last line of every LoRA, at the start. older: as Manifest.older_outputs gives them, at the start.
    again: the LoRAs that this run, when it was started before, has done again; None if only what is not done is to be
    done.
    """

    manifest: Manifest
    output: OutputFolder
    entries: Mapping[str, Entry]
    older: Mapping[tuple[str, str], Output]
    again: Collection[str] | None = None

    def remaining(self, files: Sequence[LibraryFile], job: Job) -> list[LibraryFile]:
        """The files that are not done."""
        done = [file for file in files if self.again is None or file.name in self.again]
        names = {file.name for file in done if self._is_done(file, job)}
        return [file for file in files if file.name not in names]

    def lines_of(self, names: Collection[str]) -> Iterator[Entry]:
        """The last lines of these LoRAs, whole. The manifest is read again, because `entries` lacks the sentences."""
        return (entry for entry in self.manifest.last_entries() if entry.lora in names) if names else iter(())

    def output_before(self, file: LibraryFile) -> Output | None:
        """What an earlier run wrote for a LoRA to the path of its result; None if it wrote nothing."""
        entry = self.entries.get(file.name)
        last = None if entry is None else entry.output
        return last if last is not None and last.path == file.output else self.older.get((file.name, file.output))

    def count_replaced(self, files: Sequence[LibraryFile], job: Job) -> Counter[tuple[Change, ...]]:
        """How many results of other jobs these files replace, by what these jobs did otherwise."""
        return Counter(changes for file in files if (changes := self._changes(file, job)))

    def _changes(self, file: LibraryFile, job: Job) -> tuple[Change, ...]:
        entry = self.entries.get(file.name)
        if entry is None or entry.output is None or entry.output.path != file.output:
            return ()
        # A file of another size is not the result any more, and is not replaced.
        return job.changes_since(entry) if self.output.size(file.output) == entry.output.size else ()

    def _is_done(self, file: LibraryFile, job: Job) -> bool:
        return is_done(self.entries.get(file.name), file, job, mark_at(file.path), self.output.size, hash_of)


def read_earlier_runs(folder: Path, overwrite: bool = False, advice: str = MOVE_AWAY) -> EarlierRuns:
    """What earlier runs left in a folder, which may be missing. Arguments as for `open_library`."""
    manifest, work_folder = Manifest(folder / NAME), folder / WORK_FOLDER
    again = read_done_again(manifest, work_folder / OVERWRITE) or set() if overwrite else None
    output = OutputFolder(folder, work_folder, overwrite, advice)
    latest = manifest.latest()
    return EarlierRuns(manifest, output, latest, manifest.older_outputs(latest), again)


def read_done_again(manifest: Manifest, start: Path) -> set[str] | None:
    """The LoRAs that a stopped run with `overwrite` has done; None if there was no such run. start: the file that
    remembers where in the manifest that run began. OSError if it cannot be read."""
    try:
        return manifest.names_from(int(start.read_text()))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
