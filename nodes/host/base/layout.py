"""Where a model's tensors lie in a file: pieces of the file's tensors, put together in the order of the model's rows.

A checkpoint holds most tensors as the model has them. A file in diffusers' layout keeps q, k and v apart where the
model has them fused, and a few layers' rows in another order.
"""

import bisect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ....core.errors import UnsupportedBase
from ....core.files import TensorFile, TensorHeader
from ....core.layers import Rows

_NUMBER = re.compile(r"\.(\d+)(?=\.)")
_MOST_BLOCKS = 512  # the deepest models known have about 100 blocks; building one takes milliseconds


@dataclass(frozen=True)
class Piece:
    """Rows of a file's tensor."""

    key: str
    rows: Rows


# Model key -> the pieces of its tensor, from the first row to the last.
Places = Mapping[str, tuple[Piece, ...]]


def header_at(file: TensorFile, pieces: tuple[Piece, ...]) -> TensorHeader:
    """Shape and dtype of the tensor that the pieces make."""
    first = file.tensors[pieces[0].key]
    return TensorHeader((sum(piece.rows.length for piece in pieces), *first.shape[1:]), first.dtype)


def mark_of(file: TensorFile, pieces: tuple[Piece, ...]) -> str | None:
    """The files that hold the pieces and their states, as text (core.files.TensorFile.mark); None: unknown."""
    marks = {file.mark(piece.key) for piece in pieces}
    return None if None in marks else " ".join(sorted(str(mark) for mark in marks))


def read_pieces(file: TensorFile, pieces: tuple[Piece, ...], rows: Rows | None) -> Tensor:
    """The tensor that the pieces make, or some rows of it, as float32; nothing else is read."""
    parts: list[Tensor] = []
    start = 0
    for piece in pieces:
        own = Rows(0, piece.rows.length) if rows is None else _overlap(rows, start, piece.rows.length)
        start += piece.rows.length
        if own.length > 0:
            parts.append(file.read(piece.key, own.within(piece.rows)))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _overlap(rows: Rows, start: int, length: int) -> Rows:
    """Which rows of a piece, counted in the piece, are among `rows` of the whole; of no length if none is."""
    return Rows(max(rows.start - start, 0), min(rows.stop - start, length))


def find_views(meta: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Places:
    """Places of the host's tensors among those of a file by identity: the host renames them and takes slices of them.
    What it computes is left out: its values are not those of the file."""
    origin = {id(tensor): key for key, tensor in meta.items()}
    places: dict[str, tuple[Piece, ...]] = {}
    for key, tensor in tensors.items():
        whole = tensor if tensor._base is None else tensor._base
        if tensor.ndim == 0 or id(whole) not in origin:
            continue
        start = 0
        if whole is not tensor:
            if tensor.shape[1:] != whole.shape[1:] or tensor.stride() != whole.stride():
                continue
            start = int(tensor.storage_offset() // whole.stride(0))
        places[key] = (Piece(origin[id(whole)], Rows(start, start + len(tensor))),)
    return places


def trace_rows(
    headers: Mapping[str, TensorHeader], convert: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
) -> Places:
    """Places of a model's tensors in a file that the host converts on loading, whatever it does to rows: it is given
    tensors whose values are the numbers of their rows. A tensor that does not come from the file alone is left out."""
    numbers: dict[str, Tensor] = {}
    starts: list[int] = []
    start = 0
    for key, header in headers.items():
        rows = header.shape[0] if header.shape else 1
        numbers[key] = torch.arange(start, start + rows).reshape(*header.shape[:1], *(1 for _ in header.shape[1:]))
        starts.append(start)
        start += rows + 1  # a gap, so that a run of numbers never goes from one tensor to the next
    with _MarkUnwritten():
        converted = convert(dict(numbers))
    keys = list(headers)
    places: dict[str, tuple[Piece, ...]] = {}
    for name, tensor in converted.items():
        if tensor.ndim == 0 or tensor.numel() != len(tensor) or not len(tensor) or bool((tensor < 0).any()):
            continue
        places[name] = tuple(_piece(first, last, keys, starts) for first, last in _runs(tensor.flatten()))
    return places


def _runs(numbers: Tensor) -> list[tuple[int, int]]:
    """First and last of every run of numbers that count up by one."""
    breaks = (numbers.diff() != 1).nonzero().flatten() + 1
    return [(int(run[0]), int(run[-1])) for run in numbers.tensor_split(breaks)]


def _piece(first: int, last: int, keys: list[str], starts: list[int]) -> Piece:
    index = bisect.bisect_right(starts, first) - 1
    return Piece(keys[index], Rows(first - starts[index], last + 1 - starts[index]))


class _MarkUnwritten(TorchFunctionMode):
    """New tensors hold -1 instead of whatever was in memory: the host fills a fused tensor part by part, and a file
    that lacks a part must not get the rows of another layer for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        return made.fill_(-1) if func in (torch.empty, torch.empty_like) else made


def check_depth(file: TensorFile, name: str) -> None:
    """UnsupportedBase where a file numbers more blocks than any model has: ComfyUI would build each of them."""
    deepest = max((int(number) for key in file.tensors for number in _NUMBER.findall(key)), default=0)
    if deepest >= _MOST_BLOCKS:
        raise UnsupportedBase(
            f"Base {name}: expected a model of at most {_MOST_BLOCKS} blocks, found one with number {deepest:,}. "
            "ComfyUI would build every one of them: choose a model that it knows."
        )
