"""A library run: what is still to be done, batch after batch, with the manifest as its only memory."""

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from ....core.errors import InvalidSetting, LoraTransferError, UnwritableFile
from ....core.files.folder_lock import lock_folder
from ....core.library.entry import Entry, FileMark, same_result
from ....core.library.manifest import NAME, Manifest, open_manifest
from ....core.library.page import write_page
from ....core.library.pair import KnownPair, survey_pair
from ....core.library.schedule import Job, LibraryFile, batches, is_done
from ....core.memory import is_out_of_memory
from ....core.reports.envelope import Identity
from ....core.resources import Resources
from ..base.from_model import HostBase
from .batch import Batch, Done, Planned, entry_of_failure, entry_of_plan, plan_batch, transfer_batch, write_result
from .files import find_doubles, hash_of, mark_at
from .open import Failure, OpenFile, fail, open_file
from .settings import LibrarySettings
from .write import OutputFolder

# Bytes of memory for each byte of a LoRA file in float16: the file, its deltas and the results in float32, and a
# result in the file's precision. A batch may take half of the memory that is free.
_MEMORY, _SHARE = 8, 0.5


@dataclass(frozen=True)
class Library:
    """A folder of results that this process has locked. entries: the last line of every LoRA, at the start."""

    manifest: Manifest
    output: OutputFolder
    entries: Mapping[str, Entry]

    def remaining(self, files: Sequence[LibraryFile], job: Job) -> list[LibraryFile]:
        """The files that are not done."""
        if self.output.overwrite:
            return list(files)
        return [file for file in files if not self._is_done(file, job)]

    def note(self, entry: Entry) -> Entry:
        """Add a line to the manifest, unless it would repeat that of an earlier attempt that failed in the same way."""
        if not same_result(self.entries.get(entry.lora), entry):
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

    def _is_done(self, file: LibraryFile, job: Job) -> bool:
        return is_done(self.entries.get(file.name), file, job, mark_at(file.path), self.output.size, hash_of)


@contextlib.contextmanager
def open_library(folder: Path, overwrite: bool = False) -> Generator[Library, None, None]:
    """Lock a folder of results, and read its manifest. FolderInUse if another run has it."""
    with lock_folder(folder) as unfinished:
        manifest = open_manifest(folder / NAME)
        yield Library(manifest, OutputFolder(folder, unfinished, overwrite), manifest.latest())


def batch_of(source: HostBase, target: HostBase, settings: LibrarySettings, using: Resources) -> Batch:
    """What all files of a run share. Reads the bases once, to hash them. InvalidSetting if they are the same."""
    job = Job(Identity.of(source), Identity.of(target), settings.as_json())
    if job.source.fingerprint == job.target.fingerprint:
        raise InvalidSetting(
            f"Bases {source.name} and {target.name}: expected two different bases, found the same content in both. No "
            "transfer is needed: load the LoRAs as they are."
        )
    return Batch(source, target, job, settings, using)


def transfer_library(library: Library, files: Sequence[LibraryFile], batch: Batch) -> Iterator[Entry]:
    """Transfer the files. Each entry is given when its file and its line are on the disk."""
    doubles = find_doubles(files)
    for item in _results([file for file in files if file.name not in doubles], batch):
        yield library.note(_entry(item, library, batch))
    for file in files:
        if file.name in doubles:
            yield library.note(entry_of_failure(_double(file, doubles[file.name]), batch.job))


def _entry(item: Done | Failure, library: Library, batch: Batch) -> Entry:
    """The line of a result, which is written first if there is one."""
    if isinstance(item, Failure):
        return entry_of_failure(item, batch.job)
    before = library.entries.get(item.plan.opened.file.name)
    return write_result(item, batch, library.output, None if before is None else before.output)


def plan_library(files: Sequence[LibraryFile], batch: Batch) -> Iterator[Entry]:
    """What a run would do with the files. Nothing is written."""
    known: KnownPair[HostBase] | None = None
    for file in files:  # one by one: nothing is gained by sharing, because no weights are read for each file
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
    marks = [mark_at(file.path) or FileMark(0, 0) for file in files]
    limit = int(psutil.virtual_memory().available * _SHARE / _MEMORY)
    known: KnownPair[HostBase] | None = None
    for indices in batches([mark.size for mark in marks], limit):
        known = yield from _batch_results(known, [files[index] for index in indices], batch)


def _batch_results(
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
        known = yield from _batch_results(known, [file], batch)
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
