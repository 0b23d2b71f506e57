"""Reads the header of a safetensors file, and checks every number in it against the file.

The reader of the safetensors library maps the file: if it is cut short while it is mapped, the whole process ends
(SIGBUS). A small hostile header can also make it allocate much memory. Each limit here has its own error text.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

LARGEST_HEADER = 16 << 20  # bytes; an adapter with 3,000 tensors has a header of 0.3 MB
MOST_TENSORS = 30_000  # a LoKr of five tensors on every layer of a transformer of 60 blocks has about 4,500
LONGEST_NAME = 512  # characters; the longest known layer names have about 120
MOST_DIMENSIONS = 8
_LARGEST_COUNT = 1 << 62
_MOST_QUOTES = 1_000_000  # many short strings take thirty times their size in memory

# Bits of one value of each of safetensors' dtypes.
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}


@dataclass(frozen=True)
class TensorHeader:
    """The shape, dtype (named as in safetensors: F16, BF16, F8_E4M3, ...) and first byte of a tensor in a file."""

    shape: tuple[int, ...]
    dtype: str
    start: int = 0


def read_header(stream: BinaryIO, size: int) -> tuple[dict[str, TensorHeader], dict[str, str]]:
    """Read the tensors, in file order, and the metadata of an open file of `size` bytes.

    The format is 8 bytes of header length, a JSON header, then the values without gaps. ValueError says what is wrong.
    """
    length = int.from_bytes(stream.read(8), "little")
    if size < 8 or length > size - 8:
        raise ValueError(f"its header should have {length:,} bytes")
    if length > LARGEST_HEADER:
        raise ValueError(f"its header has {length:,} bytes, more than the limit of {LARGEST_HEADER:,}")
    table = _parse(stream.read(length))
    metadata = _read_metadata(table.pop("__metadata__", None))
    check_names(table)
    headers = {key: _read_entry(key, value, 8 + length) for key, value in table.items()}
    headers = dict(sorted(headers.items(), key=lambda item: (item[1].start, stored_bytes(item[1]))))
    end = 8 + length
    for key, header in headers.items():
        if header.start != end:
            raise ValueError(f"tensor {key} begins at byte {header.start:,} instead of {end:,}")
        end += stored_bytes(header)
    if end != size:
        raise ValueError(f"its header describes {end:,} bytes")
    return headers, metadata


def check_names(names: Iterable[object]) -> None:
    """Raise ValueError if there are more tensors, or longer names, than in any real adapter or model."""
    listed = list(names)
    for name in listed:
        if isinstance(name, str) and len(name) > LONGEST_NAME:
            raise ValueError(
                f"it has a name of {len(name):,} characters ({name[:40]}...), more than the limit of {LONGEST_NAME}"
            )
    if len(listed) > MOST_TENSORS:
        raise ValueError(f"it has {len(listed):,} tensors, more than the limit of {MOST_TENSORS:,}")


def stored_bytes(header: TensorHeader) -> int:
    """The size of a tensor in the file, in bytes."""
    return math.prod(header.shape) * _BITS[header.dtype] // 8


def _parse(raw: bytes) -> dict[str, Any]:
    if raw.count(b'"') > _MOST_QUOTES:
        raise ValueError(f"its header has more than {_MOST_QUOTES // 2:,} strings")
    try:
        return _table(json.loads(raw.decode("utf-8"), object_pairs_hook=_refuse_duplicates), "its header")
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("its header has two entries with the same name")
    return table


def _table(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not a table")
    return cast("dict[str, Any]", value)


def _read_metadata(value: object) -> dict[str, str]:
    metadata = {} if value is None else _table(value, "its metadata")
    if not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its metadata contain something other than text")
    return metadata


def _read_entry(key: str, value: object, first: int) -> TensorHeader:
    """Read a tensor's entry, whose offsets count from byte `first`."""
    entry = _table(value, f"the entry of tensor {key}")
    shape, offsets, dtype = _counts(entry.get("shape")), _counts(entry.get("data_offsets")), entry.get("dtype")
    if shape is None or offsets is None or len(offsets) != 2 or not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"the entry of tensor {key} has no valid dtype, shape and data_offsets")
    if len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"tensor {key} has {len(shape)} dimensions, more than the limit of {MOST_DIMENSIONS}")
    header = TensorHeader(shape, dtype, first + offsets[0])
    if stored_bytes(header) != offsets[1] - offsets[0]:
        raise ValueError(
            f"tensor {key} should have {stored_bytes(header):,} bytes, but its offsets span {offsets[1] - offsets[0]:,}"
        )
    return header


def _counts(value: object) -> tuple[int, ...] | None:
    """A list of non-negative whole numbers; None for anything else."""
    numbers = cast("list[Any]", value) if isinstance(value, list) else [None]
    are_counts = all(type(number) is int and 0 <= number < _LARGEST_COUNT for number in numbers)
    return tuple(cast("list[int]", numbers)) if are_counts else None
