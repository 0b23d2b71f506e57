"""The eigensolvers that core chooses between on a card, by size. The faster is taken there whose error, in units of
the precision, is at most eight. skew: how far its vectors are from orthonormal."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from core.eigensolvers import Eigensolver, partial, residual, whole
from core.linalg import gram
from core.resources import single_threaded

from .card import wait
from .parts import Row, Setting

_Found = TypeVar("_Found")

# Short sides of SD1.5, SDXL and Flux, with directions by the rules fixed 320 and half.
_SIZES = ((320, 160), (640, 320), (1280, 321), (1280, 640), (2048, 1024), (3072, 321), (3072, 1536))
_TINY = ((64, 32), (96, 48))
_LARGEST_BATCH, _LONG = 1280, 1.0  # rows; seconds
_BATCH = 8  # matrices of one size solved together, to see whether that is worth doing
_SOLVERS: dict[str, Eigensolver] = {"whole, on the device": whole, "partial, on the processor": partial}


def rows(setting: Setting) -> Iterator[Row]:
    generator = torch.Generator(setting.device).manual_seed(1)
    for size, count in _TINY if setting.tiny else _SIZES:
        for dtype in (torch.float32, torch.float64):
            matrix = torch.randn(size, 2 * size, generator=generator, device=setting.device).to(dtype)
            with single_threaded():  # as a worker of core computes
                row = _row(gram(matrix), count, setting.device)
            yield row


def _row(lower: Tensor, count: int, device: str) -> Row:
    row: dict[str, object] = {"what": f"{len(lower)}, {count} wanted, {str(lower.dtype).removeprefix('torch.')}"}
    for name, solver in _SOLVERS.items():
        seconds, (values, vectors) = _timed(lambda solver=solver: solver(lower, count), device)
        row[f"{name}, s"] = seconds
        row[f"{name}, error"] = residual(lower, values, vectors) / torch.finfo(lower.dtype).eps
        row[f"{name}, skew"] = _skew(vectors)
    together = None
    if len(lower) <= _LARGEST_BATCH:
        stack = lower.expand(_BATCH, -1, -1).clone()
        together = _timed(lambda: torch.linalg.eigh(stack), device)[0] / _BATCH
    return row | {f"whole, {_BATCH} together, s each": together}


def _skew(vectors: Tensor) -> float:
    """How far the vectors are from orthonormal: ||V^T V - I||_F."""
    wide = vectors.double()
    return float((wide.mT @ wide - torch.eye(wide.shape[1], dtype=wide.dtype, device=wide.device)).norm())


def _timed(work: Callable[[], _Found], device: str) -> tuple[float, _Found]:
    """Seconds of the second of two runs, for the first on a card also loads its library; long ones run once."""
    found, seconds = _once(work, device)
    if seconds < _LONG:
        found, seconds = _once(work, device)
    return seconds, found


def _once(work: Callable[[], _Found], device: str) -> tuple[_Found, float]:
    started = time.perf_counter()
    found = work()
    wait(device)
    return found, time.perf_counter() - started
