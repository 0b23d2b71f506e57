"""Measures the CPU-seconds and wall seconds of a piece of work, and the memory of this process."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Cost:
    """CPU-seconds over all threads of this process, and wall seconds."""

    cpu: float
    wall: float


def measure_time(work: Callable[[], Result]) -> tuple[Result, Cost]:
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, Cost(time.process_time() - cpu, time.perf_counter() - wall)


def best_of(tries: int, work: Callable[[], object]) -> Cost:
    """The cheapest of several tries, because other work on the machine only ever adds time."""
    return min((measure_time(work)[1] for _ in range(tries)), key=lambda cost: cost.cpu)


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process in bytes (Linux)."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024
