"""Writes safetensors files whose bytes depend on nothing but the tensors and the metadata.

The safetensors library writes metadata in an order that differs from process to process.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_ALIGNED = (
    8  # bytes; the header ends at a multiple of this, and larger types come first, so that all tensors are aligned
)

# torch's dtypes -> the names of the format.
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> str:
    """Write a new file, and return the SHA-256 of its bytes when they are on the disk. OSError if that fails."""
    digest = hashlib.sha256()
    with path.open("xb") as stream:
        for piece in _pieces(tensors, metadata):
            digest.update(piece)
            stream.write(piece)
        stream.flush()
        os.fsync(stream.fileno())
    return digest.hexdigest()


def _pieces(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> Iterator[Any]:
    order = sorted(tensors, key=lambda key: (-tensors[key].itemsize, key))
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(sorted(metadata.items()))}
    start = 0
    for key in order:
        tensor = tensors[key]
        stop = start + tensor.numel() * tensor.itemsize
        header[key] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNED)
    yield len(text).to_bytes(8, "little")
    yield text
    for key in order:
        yield tensors[key].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
