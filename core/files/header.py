"""The header of a safetensors file, checked against the file itself before anything is made of it.

safetensors' own reader maps the file: a file that is cut short while it is mapped ends the whole process (SIGBUS), and
a small hostile header can ask for much. Every bound here has its sentence.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

LARGEST_HEADER = 16 << 20  # bytes; the header of an adapter with 3,000 tensors has 0.3 MB
MOST_TENSORS = 30_000  # a LoKr of five tensors on every layer of a transformer of 60 blocks has about 4,500
LONGEST_NAME = 512  # characters; the longest names of layers known have about 120
MOST_DIMENSIONS = 8
_LARGEST_COUNT = 1 << 62
_MOST_QUOTES = 1_000_000  # a header of many short strings takes thirty times its size in memory

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
    """Shape, dtype (in safetensors' words: F16, BF16, F8_E4M3, ...) and first byte in the file of a stored tensor."""

    shape: tuple[int, ...]
    dtype: str
    start: int = 0


def read_header(stream: BinaryIO, size: int) -> tuple[dict[str, TensorHeader], dict[str, str]]:
    """Every tensor in the order of the file, and the metadata, of an open file of `size` bytes.

    8 bytes of length, JSON, then the values without a hole. ValueError says what is wrong.
    """
    length = int.from_bytes(stream.read(8), "little")
    if size < 8 or length > size - 8:
        raise ValueError(f"its header should have {length:,} bytes")
    if length > LARGEST_HEADER:
        raise ValueError(f"its header has {length:,} bytes, where {LARGEST_HEADER:,} are the most that is read")
    written = _parsed(stream.read(length))
    metadata = _metadata(written.pop("__metadata__", None))
    check_names(written)
    headers = {key: _entry(key, value, 8 + length) for key, value in written.items()}
    headers = dict(sorted(headers.items(), key=lambda item: (item[1].start, stored_bytes(item[1]))))
    end = 8 + length
    for key, header in headers.items():
        if header.start != end:
            raise ValueError(f"tensor {key} begins at byte {header.start:,}, where {end:,} was expected")
        end += stored_bytes(header)
    if end != size:
        raise ValueError(f"its header tells of {end:,} bytes")
    return headers, metadata


def check_names(names: Iterable[object]) -> None:
    """ValueError where there are more tensors, or longer names, than any adapter or model has."""
    listed = list(names)
    for name in listed:
        if isinstance(name, str) and len(name) > LONGEST_NAME:
            raise ValueError(
                f"it has a name of {len(name):,} characters ({name[:40]}...), where {LONGEST_NAME} are the most"
            )
    if len(listed) > MOST_TENSORS:
        raise ValueError(f"it has {len(listed):,} tensors, where {MOST_TENSORS:,} are the most that is read")


def stored_bytes(header: TensorHeader) -> int:
    """How many bytes of the file a tensor takes."""
    return math.prod(header.shape) * _BITS[header.dtype] // 8


def _parsed(raw: bytes) -> dict[str, Any]:
    if raw.count(b'"') > _MOST_QUOTES:
        raise ValueError(f"its header has more than {_MOST_QUOTES // 2:,} words")
    try:
        return _table(json.loads(raw.decode("utf-8"), object_pairs_hook=_without_doubles), "its header")
    except RecursionError:
        raise ValueError("its header is nested too deep") from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("its header has two entries of one name")
    return table


def _table(written: object, what: str) -> dict[str, Any]:
    if not isinstance(written, dict):
        raise ValueError(f"{what} is no table")
    return cast("dict[str, Any]", written)


def _metadata(written: object) -> dict[str, str]:
    metadata = {} if written is None else _table(written, "its metadata")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata hold something else than texts")
    return metadata


def _entry(key: str, written: object, first: int) -> TensorHeader:
    """One tensor's entry, whose offsets count from byte `first`."""
    entry = _table(written, f"the entry of tensor {key}")
    shape, offsets, dtype = _counts(entry.get("shape")), _counts(entry.get("data_offsets")), entry.get("dtype")
    if shape is None or offsets is None or len(offsets) != 2 or not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"the entry of tensor {key} is not one of dtype, shape and data_offsets")
    if len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"tensor {key} has {len(shape)} dimensions, where {MOST_DIMENSIONS} are the most")
    header = TensorHeader(shape, dtype, first + offsets[0])
    if stored_bytes(header) != offsets[1] - offsets[0]:
        raise ValueError(f"tensor {key} should have {stored_bytes(header):,} bytes, its offsets leave it others")
    return header


def _counts(value: object) -> tuple[int, ...] | None:
    """A list of whole numbers from 0 on; None for anything else."""
    numbers = cast("list[Any]", value) if isinstance(value, list) else [None]
    are_counts = all(type(number) is int and 0 <= number < _LARGEST_COUNT for number in numbers)
    return tuple(cast("list[int]", numbers)) if are_counts else None
