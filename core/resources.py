"""What a run may use: a device, workers, a cache and a progress callback."""

# torch's switches and threadpoolctl have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportMissingTypeStubs=false

import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

from .cache import SubspaceCache
from .eigensolvers import Eigensolver, FastestSolver, solve_by_rule
from .memory import is_out_of_memory
from .progress import Progress, ignore_progress

Task = TypeVar("Task")
Result = TypeVar("Result")

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Resources:
    """What a run may use.

    device: where to compute. workers: how many layers are processed at the same time. Each has its own thread and
    computes only there, so that results do not depend on the number of workers. cache: decomposed bases on disk.
    notes: sentences for the report, by subject, so that each appears once.
    """

    device: torch.device = CPU
    workers: int = 1
    cache: SubspaceCache | None = None
    progress: Progress = ignore_progress
    notes: dict[str, str] = field(default_factory=dict[str, str])
    eigensolver: Eigensolver = solve_by_rule
    _card_lock: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def on(device: torch.device, workers: int, cache: SubspaceCache | None, progress: Progress) -> "Resources":
        """Resources for a device: a card uses the fastest eigensolver by measurement, a processor by a rule."""
        eigensolver = FastestSolver() if device.type == "cuda" else solve_by_rule
        return Resources(device, workers, cache, progress, eigensolver=eigensolver)

    def compute(self, work: Callable[[torch.device], Result], layer: str) -> Result:
        """Run `work` on the device: one layer at a time on a card, and on the CPU if the card runs out of memory."""
        if self.device.type == "cpu":
            return work(self.device)
        try:
            with self._card_lock:
                return work(self.device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Not inside the handler: its traceback would keep the card's tensors alive.
        torch.cuda.empty_cache()
        note = f"{self.device} ran out of memory, first at {layer}; the processor computed such layers"
        self.notes.setdefault("memory", note)
        return work(CPU)

    def over_layers(
        self,
        tasks: Sequence[Task],
        work: Callable[[Task], Result],
        cost: Callable[[Task], int],
        name: Callable[[Task], str],
    ) -> list[Result]:
        """Run `work` on every task, the most expensive first; returns results in the order of the tasks.

        Progress is reported at the start and after each layer. If it raises, running layers finish and no others start.
        """
        order = sorted(range(len(tasks)), key=lambda index: -cost(tasks[index]))
        done: dict[int, Result] = {}
        self.progress(0, len(tasks), "")
        with (
            single_threaded(),
            ThreadPoolExecutor(self.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            futures = {pool.submit(_without_gradients, work, tasks[index]): index for index in order}
            try:
                for future in as_completed(futures):
                    index = futures[future]
                    done[index] = future.result()
                    self.progress(len(done), len(tasks), name(tasks[index]))
            finally:
                pool.shutdown(cancel_futures=True)
        return [done[index] for index in range(len(tasks))]


def _without_gradients(work: Callable[[Task], Result], task: Task) -> Result:
    with torch.no_grad():  # a thread does not inherit its parent's mode
        return work(task)


@contextlib.contextmanager
def single_threaded() -> Generator[None, None, None]:
    """Keep arithmetic on the calling thread, and TensorFloat-32 off, which another node may have switched on.

    BLAS libraries would start threads of their own, which spin while they wait (640 x 640 took 5.5 s instead of 0.04 s
    next to a busy process), and the last digits of a sum would depend on their number.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tf32_setting = _switch_tf32_off() if torch.cuda.is_available() else None
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)
        if tf32_setting is not None:
            setattr(torch.backends.cuda.matmul, *tf32_setting)


def _switch_tf32_off() -> tuple[str, object] | None:
    """Switch TensorFloat-32 off. Returns the name and the old value of the switch; None if it was off.

    torch has two switches, and reading the older one raises an error after someone has set the newer one.
    """
    matmul = torch.backends.cuda.matmul
    try:
        name, before, off = "allow_tf32", matmul.allow_tf32, False
    except RuntimeError:
        name, before, off = "fp32_precision", matmul.fp32_precision, "ieee"
    if before == off:
        return None
    setattr(matmul, name, off)
    return name, before
