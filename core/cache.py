"""Decomposed bases on disk: a weight is decomposed once, whatever base, LoRA or session it comes back in.

A decomposition is kept under the hash of the weight's values, so bases that share layers share entries. Small facts
(which hash a place in a file has, figures of a pair of weights) are in an SQLite file beside them.
"""

# safetensors has no types.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .subspace import Decomposition

# Part of every key: raised when the same weight would be decomposed otherwise, which makes old entries unreachable.
ALGORITHM = 1

# bfloat16 is not offered: it costs 2e-3 of a projected delta, float16 2.5e-4 (docs/method.md, section 11).
PRECISIONS = {"float32": torch.float32, "float16": torch.float16}

_UNFINISHED, _A_DAY = ".unfinished", 24 * 3600  # seconds
_SWEEP = 20  # the folder is measured each time that this part of its limit has been written
_TABLES = (
    "CREATE TABLE IF NOT EXISTS places (place TEXT PRIMARY KEY, digest TEXT)",
    "CREATE TABLE IF NOT EXISTS figures (key TEXT PRIMARY KEY, figures TEXT)",
)


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
        self._index = self._open_index()
        self._unmeasured = 0
        self.sweep()

    def digest_at(self, place: str) -> str | None:
        """The hash of the values at a place in a file (path, size, time, key, rows), if it was taken before."""
        found = self._ask("SELECT digest FROM places WHERE place = ?", f"{ALGORITHM} {place}")
        return found[0][0] if found else None

    def note_place(self, place: str, digest: str) -> None:
        self._ask("INSERT OR REPLACE INTO places VALUES (?, ?)", f"{ALGORITHM} {place}", digest)

    def figures(self, key: str) -> dict[str, Any] | None:
        """Small numbers kept under a key that names the weights by their hashes."""
        found = self._ask("SELECT figures FROM figures WHERE key = ?", f"{ALGORITHM} {key}")
        return json.loads(found[0][0]) if found else None

    def note_figures(self, key: str, figures: dict[str, Any]) -> None:
        self._ask("INSERT OR REPLACE INTO figures VALUES (?, ?)", f"{ALGORITHM} {key}", json.dumps(figures))

    def find(self, digest: str, rank: int) -> Decomposition | None:
        """An entry that can be cut at the rank, the smallest of them; a damaged one is removed and not found."""
        for path in self._entries(digest, rank):
            found = _read(path)
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
        exact = self._entry(digest, rank)
        if exact.exists():
            yield exact
        others = self._shelf(digest).glob(f"{digest}_*_{self.precision}.safetensors")
        yield from sorted(set(others) - {exact}, key=lambda path: (_rank_of(path) < rank, _rank_of(path)))

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
        facts = {"energy": repr(kept.energy), "complete": str(kept.complete), "precise": str(kept.precise)}
        path = self._entry(digest, len(kept.singular_values))
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_name(f".{path.stem}.{os.getpid()}.{threading.get_ident()}{_UNFINISHED}")
        bases = {"left": kept.left.to(dtype), "right": kept.right.to(dtype)}
        try:
            blob = save({**bases, "singular_values": kept.singular_values}, {**facts, "sum": _sum(kept)})
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
            with contextlib.suppress(FileNotFoundError):  # removed by another process just now
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

    def _ask(self, question: str, *values: str) -> list[Any]:
        """Rows of the index. A damaged index is made anew: all that it knows can be found out again."""
        with self._lock:
            try:
                return self._index.execute(question, values).fetchall()
            except sqlite3.OperationalError:
                return []  # a full disk, or a lock that another process held for half a minute: then it is not known
            except sqlite3.DatabaseError:
                self._index.close()
                _remove(self._index_path)
                self._index = self._open_index()
                return []

    @property
    def _index_path(self) -> Path:
        return self.folder / "index.sqlite"

    def _open_index(self) -> sqlite3.Connection:
        index = sqlite3.connect(self._index_path, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            index.execute("PRAGMA synchronous = OFF")  # a cache need not survive a power cut
            for table in _TABLES:
                index.execute(table)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            index.close()
            _remove(self._index_path)
            return self._open_index()
        return index


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


def _read(path: Path) -> Decomposition | None:
    """An entry from its file; None where the file is missing, cut short, or not what was written. In float32 nothing is
    copied: the tensors are the file's pages, which nobody changes (an entry is replaced whole)."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            left, values, right = (file.get_tensor(name).float() for name in ("left", "singular_values", "right"))
        found = Decomposition(
            left, values, right, float(facts["energy"]), facts["complete"] == "True", facts["precise"] == "True"
        )
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
    return found if _sum(found) == facts.get("sum") else None


def _sum(decomposition: Decomposition) -> str:
    """A checksum that costs no more than reading: the sum of all bits as integers, and the few numbers beside them."""
    tensors = decomposition.left, decomposition.singular_values, decomposition.right
    bits = sum(int(tensor.contiguous().view(torch.int32).sum()) for tensor in tensors)
    return f"{bits} {decomposition.energy!r} {decomposition.complete} {decomposition.precise}"


def _rank_of(path: Path) -> int:
    return int(path.name.split("_")[1])
