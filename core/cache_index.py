"""Stores small facts on disk by key. All can be computed again, so a broken file never ends a run."""

import contextlib
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

from blake3 import blake3

_TABLE = "CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value BLOB, sum TEXT)"
_PATIENCE = 10  # seconds to wait for another process that locks the file
# Phrases in SQLite's errors, because Python 3.10 does not give its error codes. On a full or read-only disk known facts
# can still be read; facts that cannot be written are computed again.
_LOCKED = ("locked",)
_NOT_WRITABLE = ("readonly", "read-only", "disk is full", "disk I/O", "unable to open")


class CacheIndex:
    """JSON values by key in an SQLite file, for many threads and processes.

    A damaged file is replaced by a new one. If that is impossible, facts are only in memory, and `trouble` says why.
    """

    def __init__(self, path: Path) -> None:
        self.trouble: str | None = None
        self._path = path
        self._lock = threading.Lock()
        self._facts = self._open()

    def get(self, key: str) -> Any:
        """The value of a key; None if there is none, or if it is damaged."""
        name = _hash_key(key)
        rows = self._execute("SELECT value, sum FROM facts WHERE key = ?", name)
        if not rows or not isinstance(rows[0][0], bytes) or rows[0][1] != _checksum(name, rows[0][0]):
            return None
        return json.loads(rows[0][0])

    def put(self, key: str, value: Any) -> None:
        name, encoded = _hash_key(key), json.dumps(value).encode()
        self._execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", name, encoded, _checksum(name, encoded))

    def _execute(self, statement: str, *values: str | bytes) -> list[Any]:
        with self._lock:
            try:
                return self._facts.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                if _mentions(error, _LOCKED):
                    self._facts = self._use_memory(error)
                elif not _mentions(error, _NOT_WRITABLE):
                    self._facts.close()
                    self._facts = self._replace_file(error)
                return []

    def _open(self) -> sqlite3.Connection:
        try:
            return _connect(self._path)
        except sqlite3.Error as error:
            return self._use_memory(error) if _mentions(error, _LOCKED + _NOT_WRITABLE) else self._replace_file(error)

    def _replace_file(self, error: sqlite3.Error) -> sqlite3.Connection:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        try:
            return _connect(self._path)
        except sqlite3.Error:
            return self._use_memory(error)

    def _use_memory(self, error: sqlite3.Error) -> sqlite3.Connection:
        self.trouble = f"the index {self._path} cannot be used ({error}); later runs compute its facts again"
        return _connect(None)


def _connect(path: Path | None) -> sqlite3.Connection:
    facts = sqlite3.connect(path or ":memory:", timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        facts.execute("PRAGMA synchronous = OFF")  # a cache need not survive a power cut
        facts.execute(_TABLE)
        facts.execute(
            "SELECT key, value, sum FROM facts LIMIT 1"
        ).fetchall()  # a table of this name may belong to another program
    except sqlite3.Error:
        facts.close()
        raise
    return facts


def _mentions(error: sqlite3.Error, phrases: tuple[str, ...]) -> bool:
    return any(phrase in str(error) for phrase in phrases)


def _hash_key(key: str) -> str:
    """The hash of a key of any length and with any characters: file names need not be UTF-8."""
    return blake3(key.encode(errors="surrogatepass")).hexdigest()


def _checksum(name: str, value: bytes) -> str:
    return blake3(name.encode() + value).hexdigest(16)
