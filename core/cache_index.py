"""Small facts on disk, by key. All of them can be computed again, so no fault of the file ends a run."""

import contextlib
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

from blake3 import blake3

_TABLE = "CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value BLOB, sum TEXT)"
_PATIENCE = 10  # seconds that another process may hold the file
# What SQLite says (Python 3.10 does not give its error codes) where another process holds the file, and where the disk
# is full or read-only: what is known can then still be read, and what cannot be noted is computed again.
_HELD = ("locked",)
_NOT_WRITABLE = ("readonly", "read-only", "disk is full", "disk I/O", "unable to open")


class CacheIndex:
    """JSON values by key in an SQLite file, for many threads and processes. A damaged file is made anew; where that
    cannot be done facts are kept in memory, and `trouble` says why."""

    def __init__(self, path: Path) -> None:
        self.trouble: str | None = None
        self._path = path
        self._lock = threading.Lock()
        self._facts = self._open()

    def get(self, key: str) -> Any:
        """The value under a key; None where there is none, or where it is not what was written."""
        name = _name(key)
        rows = self._ask("SELECT value, sum FROM facts WHERE key = ?", name)
        if not rows or not isinstance(rows[0][0], bytes) or rows[0][1] != _sum(name, rows[0][0]):
            return None
        return json.loads(rows[0][0])

    def put(self, key: str, value: Any) -> None:
        name, written = _name(key), json.dumps(value).encode()
        self._ask("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", name, written, _sum(name, written))

    def _ask(self, question: str, *values: str | bytes) -> list[Any]:
        with self._lock:
            try:
                return self._facts.execute(question, values).fetchall()
            except sqlite3.Error as error:
                if _says(error, _HELD):
                    self._facts = self._in_memory(error)
                elif not _says(error, _NOT_WRITABLE):
                    self._facts.close()
                    self._facts = self._made_anew(error)
                return []

    def _open(self) -> sqlite3.Connection:
        try:
            return _connected(self._path)
        except sqlite3.Error as error:
            return self._in_memory(error) if _says(error, _HELD + _NOT_WRITABLE) else self._made_anew(error)

    def _made_anew(self, error: sqlite3.Error) -> sqlite3.Connection:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        try:
            return _connected(self._path)
        except sqlite3.Error:
            return self._in_memory(error)

    def _in_memory(self, error: sqlite3.Error) -> sqlite3.Connection:
        self.trouble = f"the index {self._path} cannot be used ({error}): what this run computes is not remembered"
        return _connected(None)


def _connected(path: Path | None) -> sqlite3.Connection:
    facts = sqlite3.connect(path or ":memory:", timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        facts.execute("PRAGMA synchronous = OFF")  # a cache need not survive a power cut
        facts.execute(_TABLE)
        facts.execute("SELECT key, value, sum FROM facts LIMIT 1").fetchall()  # a table of this name may be another's
    except sqlite3.Error:
        facts.close()
        raise
    return facts


def _says(error: sqlite3.Error, words: tuple[str, ...]) -> bool:
    return any(one in str(error) for one in words)


def _name(key: str) -> str:
    """A key of any length and any characters: names of files need not be UTF-8."""
    return blake3(key.encode(errors="surrogatepass")).hexdigest()


def _sum(name: str, value: bytes) -> str:
    return blake3(name.encode() + value).hexdigest(16)
