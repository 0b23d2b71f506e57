"""safetensors files: the header first, one tensor at a time, and writing that can lose nothing."""

# safetensors has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import hashlib
import math
import os
from collections.abc import Mapping
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

# safetensors' dtypes as torch's.
TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}

# Those that a tensor of an adapter may have; shapes and masks among them are whole numbers.
_STORED_DTYPES = {
    **TORCH_DTYPES,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

# Bytes read at once: small enough to stay in a core's cache between reading and converting.
_BLOCK = 1 << 19


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file by its header.

    state: the file as it was when the header was read; what is read later must come from that state. None: unknown.
    """

    path: Path
    tensors: Mapping[str, TensorHeader]
    metadata: Mapping[str, str]
    state: FileState | None = None

    def parts(self) -> "tuple[TensorFile, ...]":
        """The files that the tensors are in: this one."""
        return (self,)

    def mark(self, key: str) -> str | None:
        """The file that holds a tensor and its state, as text: equal marks promise equal values. None: unknown."""
        return None if self.state is None else self._mark

    @cached_property
    def _mark(self) -> str:
        # Of a file that has just been written the times promise nothing to later openings: it gets a mark of its own.
        settled = self.state is not None and self.state.settled
        state = "" if self.state is None else self.state.mark()
        return f"{self.path.resolve()} {state}" + ("" if settled else f" {uuid4().hex}")

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
        with open_unchanged(self.path, self.state) as stream:
            stream.seek(header.start + rows.start * row * dtype.itemsize)
            room = torch.empty(min(_BLOCK, values.numel() * dtype.itemsize), dtype=torch.uint8)
            for block in values.view(-1).split(_BLOCK // dtype.itemsize):
                stored = room[: len(block) * dtype.itemsize]
                if stream.readinto(stored.numpy().data) != len(stored):
                    raise ChangedFile(f"File {self.path}: it became shorter while it was read. Load it again.")
                block.copy_(stored.view(dtype))
        return values


def open_tensor_file(path: Path) -> TensorFile:
    """Read a safetensors header; UnreadableFile says what is wrong with a file that is none, or is cut short."""
    if not path.is_file():
        raise UnreadableFile(f"File {path}: not found. Check the name, or refresh the list of files.")
    with open_unchanged(path, None) as stream:
        state = state_when_opened(stream)
    with open_unchanged(path, state) as stream:
        try:
            return TensorFile(path, *read_header(stream, state.size), state)
        except ValueError as error:
            raise UnreadableFile(
                f"File {path}: expected a whole safetensors file, found {state.size:,} bytes that are none ({error}). "
                "It is damaged or was not downloaded to its end: fetch it again."
            ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file, in the file's precision and in memory of its own: for adapters, which are small.

    Never mapped: a mapped file that is cut short while it is in use ends the process. UnreadableFile where the file is
    none, ChangedFile where it changes while it is read.
    """
    file = open_tensor_file(path)
    with open_unchanged(path, file.state) as stream:
        return {key: _stored_values(stream, file, key) for key in file.tensors}


def _stored_values(stream: BufferedReader, file: TensorFile, key: str) -> Tensor:
    header = file.tensors[key]
    dtype = _STORED_DTYPES.get(header.dtype)
    if dtype is None:
        raise UnreadableFile(
            f"File {file.path}, tensor {key}: expected {', '.join(_STORED_DTYPES)}, found {header.dtype}. Convert the "
            "file to one of these."
        )
    room = torch.empty(stored_bytes(header), dtype=torch.uint8)
    stream.seek(header.start)
    if read_into(stream, room) != len(room):
        raise ChangedFile(f"File {file.path}: it became shorter while it was read. Load it again.")
    return room.view(dtype).reshape(header.shape)


def read_into(stream: IO[bytes], room: Tensor) -> int:
    """Fill bytes (n,) from a stream; how many there were."""
    view, count = room.numpy().data, 0
    while count < len(view) and (more := stream.readinto(view[count:])):  # type: ignore[attr-defined]
        count += more
    return count


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


def file_sha256(path: Path, state: FileState | None = None) -> str:
    """The whole file's SHA-256, as the model sites show it; for adapters, which are small."""
    digest = hashlib.sha256()
    with open_unchanged(path, state) as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return "sha256:" + digest.hexdigest()
