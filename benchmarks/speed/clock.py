"""CPU-seconds and wall seconds of a piece of work, and the largest memory that a process took."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Cost:
    """Seconds of all threads of this process, and of the clock on the wall."""

    cpu: float
    wall: float


def timed(work: Callable[[], Result]) -> tuple[Result, Cost]:
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, Cost(time.process_time() - cpu, time.perf_counter() - wall)


def best_of(tries: int, work: Callable[[], object]) -> Cost:
    """The cheapest of several tries: what else the machine does only ever adds."""
    return min((timed(work)[1] for _ in range(tries)), key=lambda cost: cost.cpu)


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process in bytes (Linux)."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024
