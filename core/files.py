"""safetensors files: the header first, one tensor at a time, and writing that can lose nothing."""

# safe_open has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import UnreadableFile, UnwritableFile
from .layers import Rows

# safetensors' dtypes as torch's.
TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}

# Bytes read at once: small enough to stay in a core's cache between reading and converting.
_BLOCK = 1 << 19


@dataclass(frozen=True)
class TensorHeader:
    """Shape, dtype (in safetensors' words: F16, BF16, F8_E4M3, ...) and first byte in the file of a stored tensor."""

    shape: tuple[int, ...]
    dtype: str
    start: int = 0


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file by its header."""

    path: Path
    tensors: Mapping[str, TensorHeader]
    metadata: Mapping[str, str]

    def read(self, key: str, rows: Rows | None = None) -> Tensor:
        """One tensor, or some rows of it, as float32 in memory of its own.

        Read by the header's offsets: safetensors' own reader parses the header of the whole file each time it opens it,
        and keeps every page that was ever read while it is open. Reading was five times slower through it.
        """
        header = self.tensors[key]
        dtype = TORCH_DTYPES.get(header.dtype)
        if dtype is None:
            raise UnreadableFile(
                f"File {self.path}, tensor {key}: expected {', '.join(TORCH_DTYPES)}, found {header.dtype}. "
                "Convert the file to one of these."
            )
        rows = rows or Rows(0, header.shape[0] if header.shape else 1)
        row = math.prod(header.shape[1:])
        values = torch.empty((rows.length, *header.shape[1:]) if header.shape else (), dtype=torch.float32)
        with self.path.open("rb") as stream:
            stream.seek(header.start + rows.start * row * dtype.itemsize)
            room = torch.empty(min(_BLOCK, values.numel() * dtype.itemsize), dtype=torch.uint8)
            for block in values.view(-1).split(_BLOCK // dtype.itemsize):
                stored = room[: len(block) * dtype.itemsize]
                if stream.readinto(stored.numpy().data) != len(stored):
                    raise UnreadableFile(f"File {self.path}: it became shorter while it was read. Load the base again.")
                block.copy_(stored.view(dtype))
        return values


def open_tensor_file(path: Path) -> TensorFile:
    """Read a safetensors header; UnreadableFile says what is wrong with a file that is none, or is cut short."""
    if not path.is_file():
        raise UnreadableFile(f"File {path}: not found. Check the name, or refresh the list of files.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}  # opening has checked the header against the size of the file
    except SafetensorError as error:
        raise UnreadableFile(
            f"File {path}: expected a whole safetensors file, found {path.stat().st_size:,} bytes that are none "
            f"({error}). It is damaged or was not downloaded to its end: fetch it again."
        ) from error
    return TensorFile(path, _headers(path), metadata)


def _headers(path: Path) -> dict[str, TensorHeader]:
    """Every tensor's header, in the order of the file: 8 bytes of length, JSON, then the values."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        written = json.loads(stream.read(length))
    written.pop("__metadata__", None)
    return {
        key: TensorHeader(tuple(one["shape"]), one["dtype"], 8 + length + one["data_offsets"][0])
        for key, one in sorted(written.items(), key=lambda item: item[1]["data_offsets"])
    }


def write_new(folder: Path, stem: str, tensors: dict[str, Tensor], metadata: Mapping[str, str] | None) -> Path:
    """Write `folder/stem_00001_.safetensors`, or the next free number; an existing file is never touched.

    The file appears under its name whole or not at all. The numbering is ComfyUI's own.
    """
    unfinished = folder / f".{uuid4().hex}.unfinished"  # of its own, for threads and processes alike
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            save_file(tensors, unfinished, None if metadata is None else dict(metadata))
            return _publish(unfinished, folder, stem)
        finally:
            unfinished.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise UnwritableFile(
            f"File {stem} in {folder}: expected a place to write to, found none ({error}). Choose another name or "
            "folder, or make room."
        ) from error


def _publish(unfinished: Path, folder: Path, stem: str) -> Path:
    number = 1
    while True:
        path = folder / f"{stem}_{number:05}_.safetensors"
        try:
            os.link(unfinished, path)  # fails where the name is taken, even when another process took it just now
        except FileExistsError:
            number += 1
        except OSError:  # a file system without hard links (exFAT, some network shares)
            if path.exists():
                number += 1
                continue
            os.rename(unfinished, path)
            return path
        else:
            return path


def sampled_fingerprint(path: Path) -> str:
    """A content hash that costs milliseconds whatever the size: size, header and 64 blocks spread over the file.

    Hashing all of a 24 GB base would take longer than the transfer. Files with one altered tensor can collide only if
    every block misses it: it identifies a base, it does not protect against forgery.
    """
    blocks, block_size = 64, 65536
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for index in range(blocks):
            stream.seek(index * max(0, size - block_size) // max(1, blocks - 1))
            digest.update(stream.read(block_size))
    return "sampled-sha256:" + digest.hexdigest()


def file_sha256(path: Path) -> str:
    """The whole file's SHA-256, as the model sites show it; for adapters, which are small."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return "sha256:" + digest.hexdigest()
