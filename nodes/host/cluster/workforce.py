"""Workers in processes of Ray, on this machine or on many. This is the only module that uses Ray."""

import contextlib
import logging
import os
import pickle
import socket
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....core.errors import InvalidSetting, NoWorkers
from . import ray_worker

LOCAL = "local"  # the address that means a Ray of our own, on this machine, for this run
ROOT = Path(__file__).resolve().parent.parent.parent.parent

_STORE = 100 * 2**20  # bytes of memory that Ray shares between processes: we send nothing large
_PATIENCE = 10  # seconds for a machine to answer
_THREADS = 4  # of a worker without a card; more of them share the memory of a batch, but all wait for its files
_CARD_THREADS = 3  # as in host.device


@dataclass(frozen=True)
class WorkerSize:
    """What a worker may use: threads (layers at the same time), cards, and its share of a machine's memory."""

    threads: int
    cards: int
    share: float


@dataclass(frozen=True)
class Answer:
    """What a worker returned; None if it died. reason: why it died, in Ray's words."""

    worker: int
    value: Any
    reason: str = ""


@contextlib.contextmanager
def connect(address: str) -> Generator[Any, None, None]:
    """Ray, connected to a cluster, or to one that is started here and ends with this block. NoWorkers if that fails."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use over the network
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise NoWorkers(
            f"Ray: expected the package ray in {sys.executable}, found none ({error}). Run pip install ray with this "
            "Python, or leave out --ray."
        ) from error
    _require_listener(address)
    store = {"object_store_memory": _STORE, "include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **store)
    except (OSError, RuntimeError, ValueError) as error:  # OSError includes ConnectionError and TimeoutError
        raise _unreachable(address, str(error).strip().partition("\n")[0]) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """NoWorkers if nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from error


def _unreachable(address: str, reason: str) -> NoWorkers:
    return NoWorkers(
        f"Ray at {address}: it cannot be reached ({reason}). Start it with `ray start --head`, and on the other "
        "machines with the command that this prints."
    )


class Workforce:
    """The workers of a run. Each request to one is answered once, by `next_answer`."""

    def __init__(self, ray: Any, comfyui: Path, *, threads: int | None, cpu: bool) -> None:
        self._ray = ray
        machines = self._machines()
        self._with_cards = not cpu and any(machine.get("GPU", 0) >= 1 for machine in machines)
        self.size = _choose_size(machines, threads, self._with_cards)
        # A worker with a card mostly waits for it: it does not need a processor for each of its threads.
        self._cpus = 1 if self._with_cards else self.size.threads
        ray.cloudpickle.register_pickle_by_value(ray_worker)
        self._class = ray.remote(num_cpus=self._cpus, num_gpus=self.size.cards)(ray_worker.LoraWorker)
        self._arguments = (str(ROOT), str(comfyui), cpu)
        self._actors: dict[int, Any] = {}
        self._requests: dict[Any, int] = {}
        self._hired = 0

    def room(self) -> int:
        """How many workers fit on the machines that are alive."""
        if self._with_cards:
            return sum(int(machine.get("GPU", 0)) for machine in self._machines())
        return sum(int(machine.get("CPU", 0) // self._cpus) for machine in self._machines())

    def hire(self, order: Any) -> int:
        """Start a worker, which answers when it is ready."""
        self._hired += 1
        actor = self._class.remote(*self._arguments)
        self._actors[self._hired] = actor
        self._requests[actor.start.remote(pickle.dumps(order))] = self._hired
        return self._hired

    def ask(self, worker: int, task: Any) -> None:
        """Give a worker a task."""
        self._requests[self._actors[worker].transfer.remote(pickle.dumps(task))] = worker

    def next_answer(self, patience: float) -> Answer | None:
        """Wait for an answer; None after `patience` seconds. A worker that died is forgotten."""
        if not self._requests:
            time.sleep(patience)
            return None
        done, _ = self._ray.wait(list(self._requests), timeout=patience)
        if not done:
            return None
        worker = self._requests.pop(done[0])
        try:
            return Answer(worker, pickle.loads(self._ray.get(done[0])))  # noqa: S301
        except self._ray.exceptions.RayTaskError:  # an error in our own code
            raise
        except self._ray.exceptions.RayError as error:
            self._end(self._actors.pop(worker))  # Ray may only have lost sight of it
            return Answer(worker, None, str(error).strip().partition("\n")[0])

    def dismiss_all(self) -> None:
        """End all workers at once."""
        for actor in self._actors.values():
            self._end(actor)
        self._actors.clear()
        self._requests.clear()

    def _end(self, actor: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)

    def _machines(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]


def _choose_size(machines: Sequence[dict[str, float]], threads: int | None, with_cards: bool) -> WorkerSize:
    if with_cards:
        return WorkerSize(threads or _CARD_THREADS, 1, 1 / max(machine.get("GPU", 1) for machine in machines))
    processors = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1] or [1]
    chosen = threads or min(_THREADS, *processors)
    if chosen > max(processors):
        raise InvalidSetting(
            f"Workers {chosen}: expected at most the {max(processors)} processors of the largest machine. With --ray "
            "it is the number of layers at the same time in each of Ray's workers."
        )
    return WorkerSize(chosen, 0, min(1.0, chosen / max(processors)))
