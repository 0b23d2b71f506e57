"""Stores decomposed weights on disk, so that each weight is decomposed once for all bases, LoRAs and sessions.

The key of a decomposition is the hash of the weight's values, so that bases with equal layers share entries. An index
next to the entries holds small facts: the hash of a tensor in a file, and the figures of a pair of weights.
"""

# safetensors has no types.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .cache_index import CacheIndex
from .subspace import Decomposition

# Part of every key. Raise it when the same weight is decomposed differently: old entries are then never found.
ALGORITHM = 1

# No bfloat16: its error in a transferred delta is 2e-3, that of float16 2.5e-4 (docs/method.md, section 11).
PRECISIONS = {"float32": torch.float32, "float16": torch.float16}

_UNFINISHED, _A_DAY = ".unfinished", 24 * 3600  # seconds
_TENSORS = ("left", "right", "singular_values")  # the tensors of an entry
_SWEEP = 20  # the folder's size is checked whenever 1/20 of its limit has been written


class SubspaceCache:
    """Decompositions by the hash of their weight. Many threads and processes may use it; entries are never partial.

    precision: "float32" or "float16", the dtype of stored bases. limit: bytes; the least recently used entries are
    removed. `store` returns the decomposition as rounded on disk, so that a later hit gives the same bits.
    """

    def __init__(self, folder: Path, precision: str = "float32", limit: int = 20 * 10**9) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.precision = precision
        self.limit = limit
        self._lock = threading.Lock()
        self._index = CacheIndex(folder / "index.sqlite")
        self._unmeasured = 0
        self.written = 0  # bytes of entries that this object has stored
        self.sweep()

    @property
    def trouble(self) -> str | None:
        """Why facts are not remembered between runs; None if they are."""
        return self._index.trouble

    def digest_at(self, location: str) -> str | None:
        """The hash of the values at a location in a file (path, state, key, rows), if it is known."""
        digest = self._index.get(f"{ALGORITHM} place {location}")
        return digest if isinstance(digest, str) else None

    def store_digest(self, location: str, digest: str) -> None:
        self._index.put(f"{ALGORITHM} place {location}", digest)

    def figures(self, key: str) -> dict[str, Any] | None:
        """The numbers stored under a key that contains the hashes of the weights; None if there are none."""
        figures = self._index.get(f"{ALGORITHM} figures {key}")
        return figures if isinstance(figures, dict) else None

    def store_figures(self, key: str, figures: dict[str, Any]) -> None:
        self._index.put(f"{ALGORITHM} figures {key}", figures)

    def find(self, digest: str, rank: int) -> Decomposition | None:
        """The smallest entry that can be cut at this rank; None if there is none. Damaged entries are removed."""
        for path in self._entries(digest, rank):
            decomposition = _read(path, digest)
            if decomposition is None:
                _remove(path)
            elif decomposition.serves(rank):
                with contextlib.suppress(OSError):  # another process may have removed the entry
                    os.utime(path)
                return decomposition
        return None

    def _entries(self, digest: str, rank: int) -> Iterator[Path]:
        """The entries of a weight: the one of this rank first, then larger ones, the smallest first, then smaller ones,
        which are complete if the weight has no more directions."""
        ranks = {path: _rank_of(path) for path in self._shelf(digest).glob(f"{digest}_*_{self.precision}.safetensors")}
        known = {path: stored_rank for path, stored_rank in ranks.items() if stored_rank is not None}
        yield from sorted(known, key=lambda path: (known[path] != rank, known[path] < rank, known[path]))

    def _entry(self, digest: str, rank: int) -> Path:
        return self._shelf(digest) / f"{digest}_{rank}_{self.precision}.safetensors"

    def round_as_stored(self, decomposition: Decomposition) -> Decomposition:
        """Round a decomposition to what `find` would return for it."""
        dtype = PRECISIONS[self.precision]
        left, right = (
            basis.cpu().to(dtype).float().contiguous() for basis in (decomposition.left, decomposition.right)
        )
        values = decomposition.singular_values.cpu().float().contiguous()
        return Decomposition(left, values, right, decomposition.energy, decomposition.complete, decomposition.precise)

    def store(self, digest: str, decomposition: Decomposition) -> Decomposition:
        """Store a decomposition and return it as rounded on disk. OSError if it cannot be written."""
        rounded, dtype = self.round_as_stored(decomposition), PRECISIONS[self.precision]
        path = self._entry(digest, len(rounded.singular_values))
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_name(f".{path.stem}.{os.getpid()}.{threading.get_ident()}{_UNFINISHED}")
        tensors = {
            "left": rounded.left.to(dtype),
            "right": rounded.right.to(dtype),
            "singular_values": rounded.singular_values,
        }
        facts = {"energy": repr(rounded.energy), "complete": str(rounded.complete), "precise": str(rounded.precise)}
        try:
            blob = save(tensors, {**facts, "hash": _content_hash(digest, tensors, facts)})
            unfinished.write_bytes(blob)
            os.replace(unfinished, path)
        finally:
            _remove(unfinished)
        self._grow(len(blob))
        return rounded

    def sweep(self) -> int:
        """Remove the least recently used entries until the folder is within its limit. Returns the remaining bytes."""
        entries: list[tuple[float, int, Path]] = []
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):  # another process removed it, or it cannot be read
                status = path.stat()
                # A file that a worker is writing is not an entry yet; files that a crash left are removed after a day.
                if not path.name.endswith(_UNFINISHED) or status.st_mtime < time.time() - _A_DAY:
                    entries.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.limit:
                break
            _remove(path)
            total -= size
        return total

    def _grow(self, size: int) -> None:
        with self._lock:
            self._unmeasured += size
            self.written += size
            due = self._unmeasured > self.limit / _SWEEP
            self._unmeasured = 0 if due else self._unmeasured
        if due:
            self.sweep()

    def _shelf(self, digest: str) -> Path:
        """The folder of a hash; 256 folders keep each directory short."""
        return self.folder / digest[:2]


def _remove(path: Path) -> None:
    """Remove a file if possible; on Windows it is not while another process reads it."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def hash_weight(weight: Tensor) -> str:
    """BLAKE3 of a weight (m, n) in float32, and of its shape.

    Equal values have equal hashes, whatever file, precision or fused tensor they come from. SHA-256 takes three times
    as long, and ten times on processors without instructions for it.
    """
    digest = blake3(f"{ALGORITHM} {tuple(weight.shape)}".encode())
    digest.update(weight.float().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path, digest: str) -> Decomposition | None:
    """Read an entry; None if its file is missing, cut short, or not what was written for this weight.

    In float32 nothing is copied: the tensors are the mapped file. That is safe because entries are only replaced whole.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
        if facts.pop("hash", "") != _content_hash(digest, tensors, facts):
            return None
        left, right, values = (tensors[name].float() for name in _TENSORS)
        return Decomposition(
            left, values, right, float(facts["energy"]), facts["complete"] == "True", facts["precise"] == "True"
        )
    except (SafetensorError, OSError, LookupError, ValueError, RuntimeError):
        return None


def _content_hash(digest: str, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """BLAKE3 of an entry's content and of its weight's hash; summing the bits instead took five times as long."""
    content = blake3(f"{digest} {sorted(facts.items())}".encode())
    for name in _TENSORS:
        content.update(f"{tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        content.update(tensors[name].contiguous().view(torch.uint8).numpy().data)
    return content.hexdigest()


def _rank_of(path: Path) -> int | None:
    rank = path.name.split("_")[1]
    return int(rank) if rank.isdecimal() else None
