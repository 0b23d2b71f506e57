"""Reads safetensors files one tensor at a time, and writes them without overwriting anything."""

# safetensors has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import IO
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import ChangedFile, UnreadableFile, UnwritableFile
from ..layers import Rows
from .file_state import FileState, open_unchanged, state_when_opened
from .header import TensorHeader, read_header, stored_bytes

# The dtypes of model weights, by their names in safetensors.
TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}

# The dtypes of an adapter's tensors; its shapes and masks are whole numbers.
_STORED_DTYPES = {
    **TORCH_DTYPES,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

# Bytes per read: small enough to stay in a core's cache between reading and converting.
_BLOCK = 1 << 19


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file whose header was read.

    state: the state of the file at that time. Later reads fail with ChangedFile if it has changed. None: unknown.
    """

    path: Path
    tensors: Mapping[str, TensorHeader]
    metadata: Mapping[str, str]
    state: FileState | None = None

    def parts(self) -> "tuple[TensorFile, ...]":
        """The files that contain the tensors: this one."""
        return (self,)

    def mark(self, key: str) -> str | None:
        """The path and state of the file that contains a tensor, as text; equal marks mean equal values. None:
        unknown."""
        return None if self.state is None else self._mark

    @cached_property
    def _mark(self) -> str:
        # The times of a file that was just written may not change with the next write, so it gets a unique mark.
        settled = self.state is not None and self.state.settled
        state = "" if self.state is None else self.state.mark()
        return f"{self.path.resolve()} {state}" + ("" if settled else f" {uuid4().hex}")

    def read(self, key: str, rows: Rows | None = None) -> Tensor:
        """Read a tensor, or rows of it, as float32 in memory of its own.

        Uses the header's offsets: the reader of the safetensors library parses the whole header at each opening, keeps
        all pages that were read while it is open, and was five times slower. UnreadableFile for a dtype that weights do
        not have, ChangedFile if the file changed.
        """
        shape = self.tensors[key].shape
        (values,) = self.read_parts(key, (rows or Rows(0, shape[0] if shape else 1),))
        return values

    def read_parts(self, key: str, parts: Sequence[Rows]) -> Iterator[Tensor]:
        """Read rows of a tensor, one part after another, as `read` does but through one opening of the file. Use all
        parts before you trust any: the last check that the file did not change comes after the last part."""
        header = self.tensors[key]
        dtype = TORCH_DTYPES.get(header.dtype)
        if dtype is None:
            raise UnreadableFile(
                f"File {self.path}, tensor {key}: expected {', '.join(TORCH_DTYPES)}, found {header.dtype}. "
                "Convert the file to one of these."
            )
        row = math.prod(header.shape[1:])
        largest = max((rows.length for rows in parts), default=0) * row * dtype.itemsize
        buffer = torch.empty(min(_BLOCK, largest), dtype=torch.uint8)
        with open_unchanged(self.path, self.state) as stream:
            for rows in parts:
                stream.seek(header.start + rows.start * row * dtype.itemsize)
                values = torch.empty((rows.length, *header.shape[1:]) if header.shape else (), dtype=torch.float32)
                for block in values.view(-1).split(_BLOCK // dtype.itemsize):
                    stored = buffer[: len(block) * dtype.itemsize]
                    if stream.readinto(stored.numpy().data) != len(stored):
                        raise ChangedFile(f"File {self.path}: it was cut short while it was read. Load it again.")
                    block.copy_(stored.view(dtype))
                yield values


def open_tensor_file(path: Path) -> TensorFile:
    """Read a safetensors header. UnreadableFile says what is wrong if the file is missing, damaged or cut short."""
    if not path.is_file():
        raise UnreadableFile(f"File {path}: not found. Check the name, or refresh the list of files.")
    with open_unchanged(path, None) as stream:
        state = state_when_opened(stream)
    with open_unchanged(path, state) as stream:
        try:
            return TensorFile(path, *read_header(stream, state.size), state)
        except ValueError as error:
            raise UnreadableFile(
                f"File {path}: expected a whole safetensors file, but {error} (the file has {state.size:,} bytes). "
                "It is damaged or its download is incomplete: download it again."
            ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file, in the file's dtypes and in memory of their own; for adapters, which are small.

    Do not map the file instead: if a mapped file is cut short while it is in use, the process ends. UnreadableFile if
    it is not a safetensors file, ChangedFile if it changes while it is read.
    """
    file = open_tensor_file(path)
    with open_unchanged(path, file.state) as stream:
        return {key: _read_stored(stream, file, key) for key in file.tensors}


def _read_stored(stream: BufferedReader, file: TensorFile, key: str) -> Tensor:
    header = file.tensors[key]
    dtype = _STORED_DTYPES.get(header.dtype)
    if dtype is None:
        raise UnreadableFile(
            f"File {file.path}, tensor {key}: expected {', '.join(_STORED_DTYPES)}, found {header.dtype}. Convert the "
            "file to one of these."
        )
    buffer = torch.empty(stored_bytes(header), dtype=torch.uint8)
    stream.seek(header.start)
    if read_into(stream, buffer) != len(buffer):
        raise ChangedFile(f"File {file.path}: it was cut short while it was read. Load it again.")
    return buffer.view(dtype).reshape(header.shape)


def read_into(stream: IO[bytes], buffer: Tensor) -> int:
    """Fill a buffer of bytes (n,) from a stream. Returns the number of bytes that were read."""
    view, count = buffer.numpy().data, 0
    while count < len(view) and (more := stream.readinto(view[count:])):  # type: ignore[attr-defined]
        count += more
    return count


def write_new(folder: Path, stem: str, tensors: dict[str, Tensor], metadata: Mapping[str, str] | None) -> Path:
    """Write `folder/stem.safetensors`, or if there is one `stem_2`, `stem_3` ...; existing files are never overwritten.

    A file with that name is never partial. UnwritableFile if it cannot be written.
    """
    unfinished = folder / f".{uuid4().hex}.unfinished"  # a unique name: several threads or processes may write here
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            save_file(tensors, unfinished, None if metadata is None else dict(metadata))
            return _publish(unfinished, folder, stem)
        finally:
            unfinished.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise UnwritableFile(
            f"File {stem} in {folder}: it cannot be written ({error}). Choose another name or folder, or free "
            "disk space."
        ) from error


def _publish(unfinished: Path, folder: Path, stem: str) -> Path:
    number = 1
    while True:
        path = folder / f"{stem}{'' if number == 1 else f'_{number}'}.safetensors"
        try:
            os.link(unfinished, path)  # fails if the name exists, even if another process has just created it
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


def file_sha256(path: Path, state: FileState | None = None) -> str:
    """SHA-256 of the whole file, as model sites show it; for adapters, which are small."""
    digest = hashlib.sha256()
    with open_unchanged(path, state) as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return "sha256:" + digest.hexdigest()
