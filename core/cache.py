"""Decomposed bases on disk: a weight is decomposed once, whatever base, LoRA or session it comes back in.

A decomposition is kept under the hash of the weight's values, so bases that share layers share entries. Small facts
(which hash a place in a file has, figures of a pair of weights) are in an index beside them.
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

# Part of every key: raised when the same weight would be decomposed otherwise, which makes old entries unreachable.
ALGORITHM = 1

# bfloat16 is not offered: it costs 2e-3 of a projected delta, float16 2.5e-4 (docs/method.md, section 11).
PRECISIONS = {"float32": torch.float32, "float16": torch.float16}

_UNFINISHED, _A_DAY = ".unfinished", 24 * 3600  # seconds
_TENSORS = ("left", "right", "singular_values")  # of an entry
_SWEEP = 20  # the folder is measured each time that this part of its limit has been written


class SubspaceCache:
    """Decompositions by content. Safe with many threads and processes at once; every entry is whole or absent.

    precision: float32 or float16, in which bases are stored. limit: bytes; the least recently used go first. A result
    is what a later hit will give, bit by bit: what `keep` returns has been rounded as it was stored.
    """

    def __init__(self, folder: Path, precision: str = "float32", limit: int = 20 * 10**9) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.precision = precision
        self.limit = limit
        self._lock = threading.Lock()
        self._index = CacheIndex(folder / "index.sqlite")
        self._unmeasured = 0
        self.sweep()

    @property
    def trouble(self) -> str | None:
        """Why facts are not remembered from one run to the next; None where they are."""
        return self._index.trouble

    def digest_at(self, place: str) -> str | None:
        """The hash of the values at a place in a file (path, state, key, rows), if it was taken before."""
        digest = self._index.get(f"{ALGORITHM} place {place}")
        return digest if isinstance(digest, str) else None

    def note_place(self, place: str, digest: str) -> None:
        self._index.put(f"{ALGORITHM} place {place}", digest)

    def figures(self, key: str) -> dict[str, Any] | None:
        """Small numbers kept under a key that names the weights by their hashes."""
        figures = self._index.get(f"{ALGORITHM} figures {key}")
        return figures if isinstance(figures, dict) else None

    def note_figures(self, key: str, figures: dict[str, Any]) -> None:
        self._index.put(f"{ALGORITHM} figures {key}", figures)

    def find(self, digest: str, rank: int) -> Decomposition | None:
        """An entry that can be cut at the rank, the smallest of them; a damaged one is removed and not found."""
        for path in self._entries(digest, rank):
            found = _read(path, digest)
            if found is None:
                _remove(path)
            elif found.serves(rank):
                with contextlib.suppress(OSError):  # another process may have removed it just now
                    os.utime(path)
                return found
        return None

    def _entries(self, digest: str, rank: int) -> Iterator[Path]:
        """The entry of this very rank, else the smallest that is larger; a smaller one serves where the weight has no
        more directions."""
        ranks = {path: _rank_of(path) for path in self._shelf(digest).glob(f"{digest}_*_{self.precision}.safetensors")}
        known = {path: other for path, other in ranks.items() if other is not None}
        yield from sorted(known, key=lambda path: (known[path] != rank, known[path] < rank, known[path]))

    def _entry(self, digest: str, rank: int) -> Path:
        return self._shelf(digest) / f"{digest}_{rank}_{self.precision}.safetensors"

    def rounded(self, decomposition: Decomposition) -> Decomposition:
        """A decomposition as it comes back from the disk."""
        dtype = PRECISIONS[self.precision]
        left, right = (
            basis.cpu().to(dtype).float().contiguous() for basis in (decomposition.left, decomposition.right)
        )
        values = decomposition.singular_values.cpu().float().contiguous()
        return Decomposition(left, values, right, decomposition.energy, decomposition.complete, decomposition.precise)

    def keep(self, digest: str, decomposition: Decomposition) -> Decomposition:
        """Store a decomposition, and return it as it was stored; OSError where the disk does not take it."""
        kept, dtype = self.rounded(decomposition), PRECISIONS[self.precision]
        path = self._entry(digest, len(kept.singular_values))
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_name(f".{path.stem}.{os.getpid()}.{threading.get_ident()}{_UNFINISHED}")
        tensors = {
            "left": kept.left.to(dtype),
            "right": kept.right.to(dtype),
            "singular_values": kept.singular_values,
        }
        facts = {"energy": repr(kept.energy), "complete": str(kept.complete), "precise": str(kept.precise)}
        try:
            blob = save(tensors, {**facts, "hash": _content_hash(digest, tensors, facts)})
            unfinished.write_bytes(blob)
            os.replace(unfinished, path)
        finally:
            _remove(unfinished)
        self._grow(len(blob))
        return kept

    def sweep(self) -> int:
        """Remove the least recently used entries until the folder is within its limit; the bytes that are left."""
        aged: list[tuple[float, int, Path]] = []
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):  # removed by another process just now, or not to be looked at
                status = path.stat()
                # What another worker is writing is no entry yet; what a crash left behind goes after a day.
                if not path.name.endswith(_UNFINISHED) or status.st_mtime < time.time() - _A_DAY:
                    aged.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in aged)
        for _, size, path in sorted(aged):
            if total <= self.limit:
                break
            _remove(path)
            total -= size
        return total

    def _grow(self, size: int) -> None:
        with self._lock:
            self._unmeasured += size
            due = self._unmeasured > self.limit / _SWEEP
            self._unmeasured = 0 if due else self._unmeasured
        if due:
            self.sweep()

    def _shelf(self, digest: str) -> Path:
        """The folder of a hash: a few hundred shelves keep each directory short."""
        return self.folder / digest[:2]


def _remove(path: Path) -> None:
    """Remove a file if that can be done: on Windows not while another process reads it."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def digest_of(weight: Tensor) -> str:
    """BLAKE3 of a weight (m, n) as float32, with its shape: equal values give equal hashes whatever file, precision or
    fused tensor they come from, and a convolution's reshape is inside. SHA-256 takes three times as long, and ten times
    on processors without instructions for it."""
    digest = blake3(f"{ALGORITHM} {tuple(weight.shape)}".encode())
    digest.update(weight.float().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path, digest: str) -> Decomposition | None:
    """An entry from its file; None where the file is missing, cut short, or not what was written for this weight. In
    float32 nothing is copied: the tensors are the file's pages, which nobody changes (an entry is replaced whole)."""
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
    """BLAKE3 of all that an entry holds and of the weight that it is of; a sum of its bits took five times as long."""
    content = blake3(f"{digest} {sorted(facts.items())}".encode())
    for name in _TENSORS:
        content.update(f"{tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        content.update(tensors[name].contiguous().view(torch.uint8).numpy().data)
    return content.hexdigest()


def _rank_of(path: Path) -> int | None:
    rank = path.name.split("_")[1]
    return int(rank) if rank.isdecimal() else None
