"""Where a model's tensors lie in a file: as pieces of the file's tensors, joined in the order of the model's rows.

A checkpoint holds most tensors as the model has them. A file in diffusers' layout stores q, k and v separately where
the model fuses them, and has the rows of a few layers in another order.
"""

import bisect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ....core.errors import UnsupportedBase
from ....core.files import TensorFile, TensorHeader
from ....core.layers import Rows, WeightRef

_NUMBER = re.compile(r"\.(\d+)(?=\.)")
_MOST_BLOCKS = 512  # the deepest known models have about 100 blocks; each takes milliseconds to build


@dataclass(frozen=True)
class Piece:
    """Rows of a tensor in a file."""

    key: str
    rows: Rows


# Model key -> the pieces of its tensor, from the first row to the last.
Locations = Mapping[str, tuple[Piece, ...]]


def header_at(file: TensorFile, pieces: tuple[Piece, ...]) -> TensorHeader:
    """Shape and dtype of the tensor that the pieces make up."""
    first = file.tensors[pieces[0].key]
    return TensorHeader((sum(piece.rows.length for piece in pieces), *first.shape[1:]), first.dtype)


def mark_of(file: TensorFile, pieces: tuple[Piece, ...]) -> str | None:
    """The files that hold the pieces and their states, as text (core.files.TensorFile.mark); None if unknown."""
    marks = {file.mark(piece.key) for piece in pieces}
    return None if None in marks else " ".join(sorted(str(mark) for mark in marks))


def read_pieces(file: TensorFile, pieces: tuple[Piece, ...], rows: Rows | None) -> Tensor:
    """The tensor that the pieces make up, or only `rows` of it, as float32; nothing else is read."""
    parts: list[Tensor] = []
    start = 0
    for piece in pieces:
        own = Rows(0, piece.rows.length) if rows is None else _overlap(rows, start, piece.rows.length)
        start += piece.rows.length
        if own.length > 0:
            parts.append(file.read(piece.key, own.within(piece.rows)))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class PiecesReader:
    """Reads the tensors of a model from a file."""

    file: TensorFile
    locations: Locations

    def __call__(self, weight: WeightRef) -> Tensor:
        return read_pieces(self.file, self.locations[weight.key], weight.rows)

    def read_parts(self, weight: WeightRef, parts: Sequence[Rows]) -> Iterator[Tensor]:
        """Rows of a weight, one part after another; through one opening of the file if they are in one piece."""
        first, *more = self.locations[weight.key]
        rows = [part.within(weight.rows) for part in parts]
        if more:
            return (read_pieces(self.file, (first, *more), part) for part in rows)
        return self.file.read_parts(first.key, [part.within(first.rows) for part in rows])


def _overlap(rows: Rows, start: int, length: int) -> Rows:
    """The rows of a piece, counted within the piece, that are among `rows` of the whole; of length 0 or less if none
    is. The piece starts at row `start` of the whole."""
    return Rows(max(rows.start - start, 0), min(rows.stop - start, length))


def find_views(meta: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Locations:
    """Finds ComfyUI's tensors among those of a file by identity: ComfyUI renames tensors and takes slices of them.
    Tensors that it computes are left out, because their values are not those of the file."""
    origin = {id(tensor): key for key, tensor in meta.items()}
    locations: dict[str, tuple[Piece, ...]] = {}
    for key, tensor in tensors.items():
        whole = tensor if tensor._base is None else tensor._base
        if tensor.ndim == 0 or id(whole) not in origin:
            continue
        start = 0
        if whole is not tensor:
            if tensor.shape[1:] != whole.shape[1:] or tensor.stride() != whole.stride():
                continue
            start = int(tensor.storage_offset() // whole.stride(0))
        locations[key] = (Piece(origin[id(whole)], Rows(start, start + len(tensor))),)
    return locations


def trace_rows(
    headers: Mapping[str, TensorHeader], convert: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
) -> Locations:
    """Finds where each tensor of a model comes from in a file that ComfyUI converts on loading, whatever it does to
    rows: it converts tensors whose values are row numbers. A tensor that does not come from the file alone is left
    out."""
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
    locations: dict[str, tuple[Piece, ...]] = {}
    for name, tensor in converted.items():
        if tensor.ndim == 0 or tensor.numel() != len(tensor) or not len(tensor) or bool((tensor < 0).any()):
            continue
        locations[name] = tuple(_piece(first, last, keys, starts) for first, last in _runs(tensor.flatten()))
    return locations


def _runs(numbers: Tensor) -> list[tuple[int, int]]:
    """The first and the last number of every run that counts up by one."""
    breaks = (numbers.diff() != 1).nonzero().flatten() + 1
    return [(int(run[0]), int(run[-1])) for run in numbers.tensor_split(breaks)]


def _piece(first: int, last: int, keys: list[str], starts: list[int]) -> Piece:
    index = bisect.bisect_right(starts, first) - 1
    return Piece(keys[index], Rows(first - starts[index], last + 1 - starts[index]))


class _MarkUnwritten(TorchFunctionMode):
    """Fills new tensors with -1. ComfyUI fills a fused tensor part by part; if the file lacks a part, whatever was in
    memory would otherwise count as rows of some other layer."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return result.fill_(-1) if func in (torch.empty, torch.empty_like) else result


def check_depth(file: TensorFile, name: str) -> None:
    """UnsupportedBase if a file numbers more blocks than any model has: ComfyUI would build all of them."""
    deepest = max((int(number) for key in file.tensors for number in _NUMBER.findall(key)), default=0)
    if deepest >= _MOST_BLOCKS:
        raise UnsupportedBase(
            f"Base {name}: expected at most {_MOST_BLOCKS} blocks, found a block with number {deepest:,}. ComfyUI "
            "would build all of them: choose a model that it knows."
        )
