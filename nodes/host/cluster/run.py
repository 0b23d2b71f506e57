"""A library run on a cluster: workers transfer batches and write the results; only this process writes the manifest."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ....core.errors import InvalidSetting, NoWorkers
from ....core.library.attempts import MOST_DEATHS, Attempts
from ....core.library.entry import Entry, FileMark, Output
from ....core.library.schedule import LibraryFile
from ..library.batch import Batch, entry_of_failure
from ..library.files import mark_at
from ..library.open import Failure
from ..library.run import Library, note_entries, sizes_of
from .worker import BatchTask, Order, Ready
from .workforce import Answer, Workforce, connect

_PATIENCE = 5  # seconds between two looks at which machines are alive
_LONGEST_WAIT = 120  # seconds without any machine; one that restarts needs about a minute
_MOST_FAILED_STARTS = 5  # workers that died one after another before they were ready


@dataclass(frozen=True)
class Cluster:
    """Where workers run, and what each may use.

    address: workforce.LOCAL, or that of a running cluster. comfyui: its folder. threads: layers at the same time in a
    worker; None to choose. cpu: cards are not used. cache: a folder of decomposed bases that all machines share; None
    for ComfyUI's on each machine.
    """

    address: str
    comfyui: Path
    threads: int | None = None
    cpu: bool = False
    cache: Path | None = None


def transfer_on_cluster(
    library: Library,
    files: Sequence[LibraryFile],
    batch: Batch,
    cluster: Cluster,
    tell: Callable[[str], None],
    watch: Callable[[Ready, Sequence[LibraryFile]], None],
    among: Sequence[LibraryFile] | None = None,
) -> Iterator[Entry]:
    """Transfer the files as `transfer_library` does, with workers. tell, watch: as for ClusterRun. NoWorkers if there
    are none."""
    source, target = batch.source.path, batch.target.path
    if source is None or target is None:
        raise InvalidSetting("Bases of a run on a cluster: expected files, found a loaded model. Choose its file.")
    with connect(cluster.address) as ray:
        workforce = Workforce(ray, cluster.comfyui, threads=cluster.threads, cpu=cluster.cpu)
        size = workforce.size
        paths = Path(os.path.abspath(source)), Path(os.path.abspath(target))
        order = Order(*paths, batch.job, batch.settings, library.output, size.threads, cluster.cache, size.share)
        run = ClusterRun(workforce, order, library.output_before, tell, watch)
        yield from note_entries(library, files, batch.job, run.entries, among)


class ClusterRun:
    """Transfers files with workers. Results do not depend on how many there are, or on which of them die.

    tell: gets a sentence when something goes wrong that the run survives. watch: gets the worker and the files of each
    batch when it is handed out.
    """

    def __init__(
        self,
        workforce: Workforce,
        order: Order,
        before: Callable[[LibraryFile], Output | None],
        tell: Callable[[str], None],
        watch: Callable[[Ready, Sequence[LibraryFile]], None],
    ) -> None:
        self._workforce, self._order, self._before = workforce, order, before
        self._tell, self._watch = tell, watch
        self._starting: set[int] = set()
        self._ready: dict[int, Ready] = {}
        self._busy: dict[int, list[int]] = {}
        self._refused, self._failed_starts = 0, 0
        self._last_seen = time.monotonic()

    def entries(self, files: Sequence[LibraryFile]) -> Iterator[Entry]:
        """The entries of all files, as they are finished. NoWorkers if there is nobody left to do them."""
        attempts = Attempts(sizes_of(files))
        try:
            while attempts or self._busy:
                self._hire(len(attempts))
                self._hand_out(attempts, files)
                answer = self._workforce.next_answer(_PATIENCE)
                if answer is None:
                    continue
                if answer.worker in self._starting:
                    self._welcome(answer)
                    continue
                batch = self._busy.pop(answer.worker)
                if answer.value is not None:
                    yield from answer.value
                    continue
                self._ready.pop(answer.worker)
                self._tell(f"A worker ended; its {len(batch)} LoRAs are tried again ({answer.reason}).")
                yield from (self._give_up(files[index]) for index in attempts.put_back(batch))
        finally:
            self._workforce.dismiss_all()

    def _hire(self, waiting: int) -> None:
        """Start workers for the files that wait, as many as there is room for."""
        room = self._workforce.room() - self._refused
        if room > 0 or self._busy:
            self._last_seen = time.monotonic()
        elif time.monotonic() - self._last_seen > _LONGEST_WAIT:
            raise NoWorkers(
                f"Ray: expected a machine for a worker of {self._order.threads} threads, found none for "
                f"{_LONGEST_WAIT} seconds. Start machines, and the same run again: it goes on where it stopped."
            )
        idle = len(self._ready) - len(self._busy)
        for _ in range(min(room - len(self._starting) - len(self._ready), waiting - len(self._starting) - idle)):
            self._starting.add(self._workforce.hire(self._order))

    def _hand_out(self, attempts: Attempts, files: Sequence[LibraryFile]) -> None:
        for worker, ready in self._ready.items():
            if worker in self._busy:
                continue
            batch = attempts.take(len(self._ready) + len(self._starting), ready.limit)
            if not batch:
                return
            chosen = [files[index] for index in batch]
            before: Mapping[str, Output | None] = {file.name: self._before(file) for file in chosen}
            self._busy[worker] = batch
            self._workforce.ask(worker, BatchTask(chosen, before))
            self._watch(ready, chosen)

    def _welcome(self, answer: Answer) -> None:
        """Count a worker in that is ready, or say why it is not."""
        self._starting.remove(answer.worker)
        if isinstance(answer.value, Ready):
            self._ready[answer.worker] = answer.value
            self._failed_starts = 0
        elif isinstance(answer.value, str):
            self._refused += 1
            if self._refused >= self._workforce.room():
                raise NoWorkers(answer.value)
            self._tell(f"A worker cannot help. {answer.value}")
        else:
            self._failed_starts += 1
            if self._failed_starts == _MOST_FAILED_STARTS:
                raise NoWorkers(
                    f"Ray: {_MOST_FAILED_STARTS} workers ended one after another before they were ready "
                    f"({answer.reason}). Look into Ray's logs, and check that the machines have enough memory."
                )

    def _give_up(self, file: LibraryFile) -> Entry:
        reason = (
            f"LoRA {file.name}: workers ended while they had it alone ({MOST_DEATHS} times). It may need more memory "
            "than a worker has: allow fewer workers on each machine (a larger --workers), or leave it out."
        )
        failure = Failure(file, mark_at(file.path) or FileMark(0, 0), "failed", reason)
        return entry_of_failure(failure, self._order.job)
