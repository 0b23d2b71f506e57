"""Runs work whose failure must not stop the work beside it."""

from collections.abc import Callable
from typing import TypeVar

from .memory import is_out_of_memory

Result = TypeVar("Result")


def attempt(work: Callable[[], Result]) -> Result | Exception:
    """The result, or the exception as a value. The caller raises it later, or writes it into a report.

    Out of memory is raised: it is not the fault of this work, and less work at a time may succeed.
    """
    try:
        return work()
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, MemoryError):
            raise
        return error
