"""The card's memory: what a piece of work takes of it at most, and a card that has less."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

_Result = TypeVar("_Result")


def peak_of(work: Callable[[], _Result]) -> tuple[_Result, float | None]:
    """What the work gives, and the gigabytes that torch had allocated on the card at its peak; None without a card."""
    if not torch.cuda.is_available():
        return work(), None
    clear()
    torch.cuda.reset_peak_memory_stats()
    found = work()
    torch.cuda.synchronize()
    return found, torch.cuda.max_memory_allocated() / 1e9


def clear() -> None:
    """Give back what nothing refers to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def limited(gigabytes: float | None, management: Any = None) -> Iterator[None]:
    """A card on which torch gets no more than this. management: ComfyUI's module of that name, which then plans for
    that card too; without it memory runs out by surprise. Without a card, or a limit, nothing is changed."""
    if gigabytes is None or not torch.cuda.is_available():
        yield
        return
    total = torch.cuda.get_device_properties(0).total_memory
    reserved = None if management is None else management.EXTRA_RESERVED_VRAM
    clear()
    torch.cuda.set_per_process_memory_fraction(gigabytes * 1e9 / total)
    if management is not None:
        management.EXTRA_RESERVED_VRAM = reserved + total - gigabytes * 1e9
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        if management is not None:
            management.EXTRA_RESERVED_VRAM = reserved


def wait(device: str) -> None:
    """Until the card is done: a time means nothing before."""
    if device == "cuda":
        torch.cuda.synchronize()
