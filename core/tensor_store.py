"""Keeps sets of tensors on disk by key: each is written whole or not at all, checked when it is read, and removed when
it has not been used for long."""

# safetensors has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from blake3 import blake3
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .errors import UnreadableFile
from .files import open_tensor_file, read_tensors

_FACTS, _CHECKSUM = "facts", "checksum"  # the tensor that holds the facts as JSON, and the entry of the header
_UNFINISHED, _A_DAY = ".unfinished", 24 * 3600  # seconds


@dataclass(frozen=True)
class StoredTensors:
    """A set of tensors, and facts about it as JSON values."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class TensorStore:
    """Sets of tensors in a folder, for many processes. limit: bytes; the least recently used sets are removed, but
    never the newest."""

    folder: Path
    limit: int

    def read(self, key: str) -> StoredTensors | None:
        """The set of a key; None if there is none. A damaged set is removed. The tensors are in memory of their own."""
        path = self._path(key)
        try:
            if not path.is_file():
                return None
            written = open_tensor_file(path).metadata.get(_CHECKSUM)
            tensors = read_tensors(path)
        except (OSError, UnreadableFile):
            tensors, written = {}, None
        if written is None or written != _checksum(key, tensors):
            _remove(path)
            return None
        with contextlib.suppress(OSError):  # a read-only folder only loses the order of use
            os.utime(path)
        facts = json.loads(tensors.pop(_FACTS).numpy().tobytes())
        return StoredTensors(tensors, facts)

    def write(self, key: str, stored: StoredTensors) -> int:
        """Keep a set under a key. Returns its size in bytes. OSError if it cannot be written."""
        facts = torch.frombuffer(bytearray(json.dumps(dict(stored.facts)).encode()), dtype=torch.uint8)
        # Copies, because safetensors refuses tensors that share memory.
        tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in stored.tensors.items()}
        tensors[_FACTS] = facts
        unfinished = self.folder / f"{uuid4().hex}{_UNFINISHED}"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            save_file(tensors, unfinished, {_CHECKSUM: _checksum(key, tensors)})
            size = unfinished.stat().st_size
            os.replace(unfinished, self._path(key))
        except SafetensorError as error:  # safetensors' error for a full disk
            raise OSError(str(error)) from error
        finally:
            _remove(unfinished)
        self._sweep(self._path(key))
        return size

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _sweep(self, newest: Path) -> None:
        """Remove the least recently used sets beyond the limit, and what a crash left a day ago."""
        ages: list[tuple[float, int, Path]] = []
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):  # another process may have removed it
                status = path.stat()
                if path.suffix == ".safetensors" and path != newest:
                    ages.append((status.st_mtime, status.st_size, path))
                elif path.suffix == _UNFINISHED and status.st_mtime < time.time() - _A_DAY:
                    _remove(path)
        size = newest.stat().st_size
        for _, bytes_of_set, path in sorted(ages, reverse=True):
            size += bytes_of_set
            if size > self.limit:
                _remove(path)


def _remove(path: Path) -> None:
    """Remove a file if possible; on Windows it is not while another process reads it."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _checksum(key: str, tensors: Mapping[str, Tensor]) -> str:
    """BLAKE3 of the key and of every name, dtype, shape and byte: a set under another key is a damaged set."""
    digest = blake3(key.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f" {name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
