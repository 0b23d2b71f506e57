"""A worker of a cluster: it opens the bases once, and transfers one batch of LoRA files after another."""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ....core.cache import SubspaceCache
from ....core.errors import LoraTransferError, UnsupportedBase
from ....core.library.entry import Entry, Output
from ....core.library.pair import KnownPair
from ....core.library.schedule import Job, LibraryFile
from ....core.progress import ignore_progress
from ....core.reports.envelope import Identity
from ....core.version import VERSION
from ..base.from_file import base_from_file
from ..base.from_model import HostBase
from ..device import machine_resources
from ..library.batch import Batch
from ..library.run import batch_results, entry_of_item, largest_batch
from ..library.settings import LibrarySettings
from ..library.write import OutputFolder


@dataclass(frozen=True)
class Order:
    """What all workers of a run are told. All paths are absolute, and the same on every machine.

    source, target: the bases' files. threads: layers at the same time in a worker. cache: the folder of decomposed
    bases; None for that of ComfyUI. share: of a machine's memory, for one worker. version: the pack's.
    """

    source: Path
    target: Path
    job: Job
    settings: LibrarySettings
    output: OutputFolder
    threads: int
    cache: Path | None
    share: float
    version: str = VERSION


@dataclass(frozen=True)
class Ready:
    """A worker that can be given files. limit: how many bytes of files at once."""

    machine: str
    process: int
    limit: int


@dataclass(frozen=True)
class BatchTask:
    """Files for a worker. before: what earlier runs wrote, by the LoRA's name."""

    files: Sequence[LibraryFile]
    before: Mapping[str, Output | None]

    def output_before(self, file: LibraryFile) -> Output | None:
        return self.before.get(file.name)


class Worker:
    """Holds two bases and what is known of them so far."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._batch = _open_batch(order)
        self._known: KnownPair[HostBase] | None = None

    def transfer(self, task: BatchTask) -> list[Entry]:
        """Transfer files, and write the results."""
        entries: list[Entry] = []
        results = batch_results(self._known, task.files, self._batch)
        while True:
            try:
                item = next(results)
            except StopIteration as end:
                self._known = end.value
                return entries
            entries.append(entry_of_item(item, self._batch, self._order.output, task.output_before))


def start_worker(order: Order) -> tuple[Worker, Ready] | str:
    """A worker on this machine, or a sentence why there can be none. (An error's class has no module here, so Ray
    could not send it.)"""
    machine = socket.gethostname()
    if order.version != VERSION:
        return (
            f"Machine {machine}: expected version {order.version} of this pack, found {VERSION}. Install the same "
            "version on all machines."
        )
    try:
        worker = Worker(order)
    except LoraTransferError as error:
        return f"Machine {machine}: {error}"
    return worker, Ready(machine, os.getpid(), largest_batch(order.share))


def _open_batch(order: Order) -> Batch:
    using = machine_resources(ignore_progress, order.threads)
    if order.cache is not None:
        using = replace(using, cache=SubspaceCache(order.cache))
    source = _open_base(order.source, order.job.source)
    target = _open_base(order.target, order.job.target)
    return Batch(source, target, order.job, order.settings, using)


def _open_base(path: Path, expected: Identity) -> HostBase:
    base = base_from_file(path, expected.name)
    if base.fingerprint != expected.fingerprint:
        raise UnsupportedBase(
            f"Base {path}: expected the same file as where the run was started, found other content. Copy it again, "
            "or use a folder that all machines share."
        )
    return base
