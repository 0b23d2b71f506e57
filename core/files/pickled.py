"""Pickled tensor files (.pt, .bin), read without running anything of theirs.

torch.load(weights_only=True) runs no code either, but trusts the file's numbers: 2 kB that describe a tensor of stride
0 become 7 GB later on, a storage that claims more than its record holds is read past its end, and a key of nested
tuples takes forever to hash. Here every tensor is checked against the bytes that the file really has.
"""

import io
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from torch import Tensor

from .header import MOST_DIMENSIONS, MOST_TENSORS
from .opcodes import Call, run_pickle
from .tensor_file import read_into

_LARGEST_DESCRIPTION = 16 << 20  # bytes of the pickle itself, which holds no values
_NOTHING: tuple[Any, ...] = (None,) * 5
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # torch.save's, before its files were zip archives

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def read_pickled(path: Path) -> Any:
    """What a file of torch.save holds, tensors in memory of their own. ValueError says why it cannot be read."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        zipped = stream.read(4) == b"PK\x03\x04"
        stream.seek(0)
        return _read_archive(path, stream, size) if zipped else _read_legacy(stream, size)


@dataclass(frozen=True)
class _Storage:
    """A storage's values (n,) in its own dtype."""

    values: Tensor


class _Storages:
    """The storages that a pickle names, each made once; together they have at most the bytes of the file."""

    def __init__(self, size: int, fill: Callable[[str, Tensor], None] | None = None) -> None:
        self.size, self._fill = size, fill
        self.by_key: dict[str, Tensor] = {}  # bytes
        self._taken = self._described = 0

    def find(self, saved: Any) -> _Storage:
        """The storage of a persistent id ("storage", type, key, location, count)."""
        parts = (*cast("tuple[Any, ...]", saved if isinstance(saved, tuple) else ()), *_NOTHING)
        kind, dtype, key, _, count = parts[:5]
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not _is_count(count):
            raise ValueError("it refers to something that is no storage of a tensor")
        length = count * dtype.itemsize
        if key not in self.by_key:
            self._taken = self._within(self._taken + length)
            self.by_key[key] = torch.empty(length, dtype=torch.uint8)
            if self._fill is not None:
                self._fill(key, self.by_key[key])
        if len(self.by_key[key]) != length:
            raise ValueError(f"it describes storage {key[:40]} twice, in two sizes")
        return _Storage(self.by_key[key].view(dtype))

    def tensor(self, storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Tensor:
        """A tensor of a storage, which must hold every one of its values."""
        if (
            not isinstance(storage, _Storage)
            or not _are_counts(shape)
            or not _are_counts(stride)
            or not _is_count(offset)
        ):
            raise ValueError("it describes a tensor in a way that torch.save does not")
        if len(shape) != len(stride) or len(shape) > MOST_DIMENSIONS:
            raise ValueError(f"it describes a tensor of {len(shape)} dimensions with {len(stride)} strides")
        values, held = math.prod(shape), len(storage.values)
        last = offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
        if values > held or (values and last >= held):
            raise ValueError(f"a tensor of {list(shape)} is to come out of {held:,} stored values")
        self._described = self._within(self._described + values * storage.values.itemsize)
        return storage.values.as_strided(shape, stride, offset) if values else storage.values.new_empty(shape)

    def _within(self, total: int) -> int:
        if total > self.size:
            raise ValueError(f"its tensors would take {total:,} bytes or more, the file has {self.size:,}")
        return total


def _read_archive(path: Path, stream: BinaryIO, size: int) -> Any:
    """torch.save's zip archive: a pickle, and a record for each storage."""
    while block := stream.read(1 << 20):  # the table of contents takes ten times its size in memory
        if block.count(b"PK\x01\x02") > MOST_TENSORS:
            raise ValueError("its archive has more records than any LoRA")
    try:
        with zipfile.ZipFile(path) as archive:
            records = {record.filename: record for record in archive.infolist()}
            if sum(record.file_size for record in records.values()) > size or any(
                record.compress_type != zipfile.ZIP_STORED for record in records.values()
            ):
                raise ValueError("its archive is compressed, which torch.save's never is")
            name = next((name for name in records if name.endswith("data.pkl")), None)
            if name is None or records[name].file_size > _LARGEST_DESCRIPTION:
                raise ValueError("its archive has no data.pkl, or one that is too large")
            folder = name.removesuffix("data.pkl")

            def fill(key: str, room: Tensor) -> None:
                record = records.get(f"{folder}data/{key}")
                if record is None or record.file_size < len(room):
                    raise ValueError(f"its archive does not hold the {len(room):,} bytes of storage {key[:40]}")
                with archive.open(record) as values:
                    read_into(values, room)

            return _run(io.BytesIO(archive.read(name)), _Storages(size, fill))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, OverflowError, RuntimeError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


@dataclass(frozen=True)
class _Bounded:
    """A file for pickletools, which asks for as many bytes as a pickle announces: Python makes room for them first."""

    stream: BinaryIO
    size: int

    def read(self, count: int) -> bytes:
        return self.stream.read(min(count, self.size))

    def readline(self) -> bytes:
        return self.stream.readline()


def _read_legacy(stream: BinaryIO, size: int) -> Any:
    """The layout before torch 1.6: five pickles, and the storages behind them, each with its count of values."""
    storages, pickles = _Storages(size), cast("IO[bytes]", _Bounded(stream, size))
    magic, protocol, system = (_run(pickles, storages) for _ in range(3))
    if (magic, protocol) != (_MAGIC, _PROTOCOL) or not isinstance(system, dict):
        raise ValueError("it is no file of torch.save")
    held, keys = _run(pickles, storages), _run(pickles, storages)
    for key in cast("list[object]", keys if isinstance(keys, list) else []):
        room = storages.by_key.pop(key, None) if isinstance(key, str) else None
        stream.read(8)  # how many values follow; the pickle has said it
        if room is None or read_into(stream, room) != len(room):
            raise ValueError("it ends before its last tensor")
    if storages.by_key:
        raise ValueError("it lacks a storage")
    return held


def _run(stream: IO[bytes], storages: _Storages) -> Any:
    return run_pickle(stream, _known(storages), storages.find)


def _known(storages: _Storages) -> dict[str, Any]:
    """What a pickle may ask for by name, as stand-ins of ours; everything else is refused as code."""
    functions: dict[str, Any] = {
        "collections OrderedDict": Call(lambda *pairs: _table(pairs)),
        "torch Size": Call(tuple),
        "torch._utils _rebuild_tensor": Call(storages.tensor),
        "torch._utils _rebuild_tensor_v2": Call(storages.tensor),
        "torch._utils _rebuild_tensor_v3": Call(_typed(storages)),
        "torch._utils _rebuild_parameter": Call(_tensor_of_parameter),
        "torch.storage UntypedStorage": torch.uint8,
    }
    dtypes = {f"torch {name}": getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2")}
    return functions | dtypes | {f"torch {name}": dtype for name, dtype in _STORAGES.items()}


def _tensor_of_parameter(tensor: Tensor, *_: Any) -> Tensor:
    return tensor


def _typed(storages: _Storages) -> Callable[..., Tensor]:
    """Tensors of dtypes without a storage class of their own (float8): the bytes, and the dtype beside them."""

    def tensor(storage: _Storage, offset: Any, shape: Any, stride: Any, _: Any, __: Any, dtype: Any, *___: Any) -> Any:
        return storages.tensor(_Storage(storage.values.view(dtype)), offset, shape, stride)

    return tensor


def _table(pairs: Any) -> dict[Any, Any]:
    if pairs not in ((), ([],), ((),)):
        raise TypeError
    return {}


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _are_counts(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(_is_count(number) for number in cast("tuple[object, ...]", value))
