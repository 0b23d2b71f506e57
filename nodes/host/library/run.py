"""A library run: what is still to be done, batch after batch, with the manifest as its only memory."""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from ....core.errors import InvalidSetting, LoraTransferError, UnwritableFile
from ....core.files.folder_lock import lock_folder
from ....core.library.entry import Entry, FileMark, Output, same_result
from ....core.library.manifest import NAME, Manifest, open_manifest
from ....core.library.page import write_page
from ....core.library.pair import KnownPair, survey_pair
from ....core.library.schedule import Job, LibraryFile, batches
from ....core.memory import is_out_of_memory
from ....core.reports.envelope import Identity
from ....core.resources import Resources
from ..base.from_model import HostBase
from .batch import Batch, Done, Planned, entry_of_failure, entry_of_plan, plan_batch, transfer_batch, write_result
from .earlier import OVERWRITE, EarlierRuns, read_done_again
from .files import find_doubles, mark_at
from .open import Failure, OpenFile, fail, open_file
from .settings import LibrarySettings
from .write import MOVE_AWAY, OutputFolder

# Bytes of memory for each byte of a LoRA file in float16: the file, its deltas and the results in float32, and a
# result in the file's precision. A batch may take half of the memory that is free.
_MEMORY, _SHARE = 8, 0.5


@dataclass(frozen=True)
class Library(EarlierRuns):
    """A folder of results that this process has locked, and may write into."""

    def note(self, entry: Entry) -> Entry:
        """Add a line to the manifest, unless it would repeat that of an earlier attempt that failed in the same way."""
        if self.again is not None or not same_result(self.entries.get(entry.lora), entry):
            self.manifest.add(entry)
        return entry

    def write_page(self) -> None:
        """Write the page that shows the manifest. UnwritableFile if that is impossible; the results are not touched."""
        try:
            write_page(self.manifest, self.output.path, self.output.unfinished)
        except OSError as error:
            raise UnwritableFile(
                f"Summary in {self.output.path}: it cannot be written ({error.strerror or error}). The results and the "
                "manifest are whole: free disk space, and start the same run again."
            ) from error


@contextlib.contextmanager
def open_library(folder: Path, overwrite: bool = False, advice: str = MOVE_AWAY) -> Generator[Library, None, None]:
    """Lock a folder of results, and read its manifest. FolderInUse if another run has it.

    overwrite: everything is done again, and files that no run wrote are replaced. If that is stopped, the next run with
    `overwrite` goes on there. advice: as for OutputFolder.
    """
    with lock_folder(folder) as unfinished:
        manifest = open_manifest(folder / NAME)
        start = unfinished.parent / OVERWRITE
        again = _done_again(manifest, start) if overwrite else None
        if not overwrite:
            start.unlink(missing_ok=True)
        output = OutputFolder(folder, unfinished, overwrite, advice)
        latest = manifest.latest()
        yield Library(manifest, output, latest, manifest.older_outputs(latest), again)
        start.unlink(missing_ok=True)


def _done_again(manifest: Manifest, start: Path) -> set[str]:
    """The LoRAs that a stopped run with `overwrite` has done again. If there was none, this run is noted as one."""
    try:
        again = read_done_again(manifest, start)
        if again is None:
            start.write_text(str(manifest.count_lines()))
    except OSError as error:
        raise UnwritableFile(f"File {start}: it cannot be used ({error.strerror or error}). Remove it.") from error
    return again or set()


def batch_of(source: HostBase, target: HostBase, settings: LibrarySettings, using: Resources) -> Batch:
    """What all files of a run share. Reads the bases once, to hash them. InvalidSetting if they are the same."""
    require_two_bases(source, target)
    return Batch(source, target, Job(Identity.of(source), Identity.of(target), settings.as_json()), settings, using)


def require_two_bases(source: HostBase, target: HostBase) -> None:
    """InvalidSetting if two bases have the same content."""
    if source.fingerprint == target.fingerprint:
        raise InvalidSetting(
            f"Bases {source.name} and {target.name}: expected two different bases, found the same content in both. No "
            "transfer is needed: load the LoRAs as they are."
        )


def transfer_library(
    library: Library, files: Sequence[LibraryFile], batch: Batch, among: Sequence[LibraryFile] | None = None
) -> Iterator[Entry]:
    """Transfer the files. Each entry is given when its file and its line are on the disk. among: as for
    `note_entries`."""

    def work(chosen: Sequence[LibraryFile]) -> Iterator[Entry]:
        for item in _results(chosen, batch):
            yield entry_of_item(item, batch, library.output, library.output_before)

    return note_entries(library, files, batch.job, work, among)


def note_entries(
    library: Library,
    files: Sequence[LibraryFile],
    job: Job,
    work: Callable[[Sequence[LibraryFile]], Iterator[Entry]],
    among: Sequence[LibraryFile] | None = None,
) -> Iterator[Entry]:
    """Note the entries of the files as `work` makes them, and those of files whose result would be that of another.

    among: all files of the run, also those that are done, because none of their results may be replaced by another's;
    None if these are all.
    """
    doubles = find_doubles(files if among is None else among)
    for entry in work([file for file in files if file.name not in doubles]):
        yield library.note(entry)
    for file in files:
        if file.name in doubles:
            yield library.note(entry_of_failure(_double(file, doubles[file.name]), job))


def entry_of_item(
    item: Done | Failure, batch: Batch, folder: OutputFolder, output_before: Callable[[LibraryFile], Output | None]
) -> Entry:
    """The line of a result, which is written first if there is one. output_before: what an earlier run wrote for a
    LoRA."""
    if isinstance(item, Failure):
        return entry_of_failure(item, batch.job)
    return write_result(item, batch, folder, output_before(item.plan.opened.file))


def plan_library(
    files: Sequence[LibraryFile], batch: Batch, among: Sequence[LibraryFile] | None = None
) -> Iterator[Entry]:
    """What a run would find in each of the files, in their order. Nothing is written. among: as for `note_entries`."""
    doubles = find_doubles(files if among is None else among)
    known: KnownPair[HostBase] | None = None
    for file in files:  # one by one: nothing is gained by sharing, because no weights are read for each file
        if file.name in doubles:
            yield entry_of_failure(_double(file, doubles[file.name]), batch.job)
            continue
        known, (item,) = _plan(known, [file], batch)
        yield entry_of_failure(item, batch.job) if isinstance(item, Failure) else entry_of_plan(item, batch)


def _plan(
    known: KnownPair[HostBase] | None, files: Sequence[LibraryFile], batch: Batch
) -> tuple[KnownPair[HostBase] | None, list[Planned | Failure]]:
    """Open and plan a batch. The pair is surveyed when the first file can be opened."""
    opened = [open_file(file, batch.source) for file in files]
    if known is None and any(isinstance(item, OpenFile) for item in opened):
        known = _survey(batch)
    if known is None:
        return None, [item for item in opened if isinstance(item, Failure)]
    return plan_batch(known, opened, batch)


def _results(files: Sequence[LibraryFile], batch: Batch) -> Iterator[Done | Failure]:
    """The results of all files, in their order."""
    known: KnownPair[HostBase] | None = None
    for indices in batches(sizes_of(files), largest_batch()):
        known = yield from batch_results(known, [files[index] for index in indices], batch)


def sizes_of(files: Sequence[LibraryFile]) -> list[int]:
    """The size of each file in bytes; 0 if it is missing."""
    return [0 if (mark := mark_at(file.path)) is None else mark.size for file in files]


def largest_batch(share: float = 1.0) -> int:
    """How many bytes of files may be in memory together. share: of this machine's memory, for one of its workers."""
    return int(psutil.virtual_memory().available * share * _SHARE / _MEMORY)


def batch_results(
    known: KnownPair[HostBase] | None, files: Sequence[LibraryFile], batch: Batch
) -> Generator[Done | Failure, None, KnownPair[HostBase] | None]:
    """The results of a batch. If the batch fails as a whole (a base cannot be read, the memory is full), its files are
    done one by one, so that the reason reaches only those that meet it. Returns what is then known of the pair."""
    count = 0
    try:
        known, plans = _plan(known, files, batch)
        failures = [plan for plan in plans if isinstance(plan, Failure)]
        for item in failures if known is None else transfer_batch(known, plans, batch):
            count += 1
            yield item
    except (LoraTransferError, MemoryError, RuntimeError) as error:
        if not isinstance(error, LoraTransferError | MemoryError) and not is_out_of_memory(error):
            raise
        rest, reason = files[count:], error
    else:
        return known
    if len(rest) == 1:
        failure = fail(rest[0], mark_at(rest[0].path) or FileMark(0, 0), reason, 0.0)
        yield replace(failure, outcome="failed")  # not the file's fault
        return known
    for file in rest:
        known = yield from batch_results(known, [file], batch)
    return known


def _survey(batch: Batch) -> KnownPair[HostBase]:
    compare = batch.settings.compare
    return survey_pair(
        batch.source,
        batch.target,
        compare.rule,
        compare.measure,
        match_by=compare.match_by,
        block_map_text=compare.block_map,
        using=batch.using,
    )


def _double(file: LibraryFile, earlier: LibraryFile) -> Failure:
    reason = (
        f"LoRA {file.name}: its result would be the same file as that of {earlier.name} ({file.output}). Rename one of "
        "them, or transfer it into another folder."
    )
    return Failure(file, mark_at(file.path) or FileMark(0, 0), "failed", reason)
