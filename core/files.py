"""safetensors files: the header first, one tensor at a time, and writing that can lose nothing."""

# safe_open has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import UnreadableFile


@dataclass(frozen=True)
class TensorHeader:
    """Shape and dtype (as safetensors spells it: F16, BF16, F8_E4M3, ...) of one stored tensor."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file by its header."""

    path: Path
    tensors: Mapping[str, TensorHeader]
    metadata: Mapping[str, str]

    def read(self, key: str, rows: tuple[int, int] | None = None) -> Tensor:
        """One tensor, or `rows` = (start, length) of it, in its stored dtype.

        The file is opened anew each time: the mapping of an open file would keep every page that was ever read.
        """
        with safe_open(self.path, framework="pt") as file:
            if rows is None:
                return file.get_tensor(key)
            start, length = rows
            return file.get_slice(key)[start : start + length]


def open_tensor_file(path: Path) -> TensorFile:
    """Read a safetensors header; UnreadableFile says what is wrong with a file that is none, or is cut short."""
    if not path.is_file():
        raise UnreadableFile(f"File {path}: not found. Check the name, or refresh the list of files.")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  (safe_open is no mapping)
            headers = {key: TensorHeader(tuple(one.get_shape()), one.get_dtype()) for key, one in slices.items()}
            return TensorFile(path, headers, file.metadata() or {})
    except SafetensorError as error:
        raise UnreadableFile(
            f"File {path}: expected a whole safetensors file, found {path.stat().st_size:,} bytes that are none "
            f"({error}). It is damaged or was not downloaded to its end: fetch it again."
        ) from error


def write_new(folder: Path, stem: str, tensors: dict[str, Tensor], metadata: Mapping[str, str] | None) -> Path:
    """Write `folder/stem_00001_.safetensors`, or the next free number; an existing file is never touched.

    The file appears under its name whole or not at all. The numbering is ComfyUI's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{stem}.{os.getpid()}.unfinished"
    try:
        save_file(tensors, unfinished, None if metadata is None else dict(metadata))
        return _publish(unfinished, folder, stem)
    finally:
        unfinished.unlink(missing_ok=True)


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


def to_float32(tensor: Tensor) -> Tensor:
    """A float32 copy with storage of its own: mapped tensors can be read-only, and keep their file in memory."""
    return tensor.to(torch.float32, copy=True)
