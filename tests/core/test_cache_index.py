import contextlib
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_transfer.core import cache_index
from lora_transfer.core.cache_index import CacheIndex

VALUES = {f"key {number}": {"number": number, "text": "x" * number} for number in range(40)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    index = CacheIndex(tmp_path / "index.sqlite")
    for key, value in VALUES.items():
        index.put(key, value)
    return tmp_path / "index.sqlite"


def change(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute(statement)


def works(index: CacheIndex) -> bool:
    index.put("new", [1, 2])
    return index.get("new") == [1, 2]


def test_facts_are_there_in_the_next_session(path: Path) -> None:
    index = CacheIndex(path)
    assert {key: index.get(key) for key in VALUES} == VALUES
    assert index.get("another") is None
    assert index.trouble is None


def test_keys_need_not_be_utf_8(path: Path) -> None:
    index = CacheIndex(path)
    index.put("caf\udce9.safetensors", 1)
    assert index.get("caf\udce9.safetensors") == 1


def test_values_of_a_damaged_index_are_never_used(path: Path) -> None:
    """Bytes of the index are overwritten three hundred times; each fact is then correct or unknown."""
    content = path.read_bytes()
    generator = random.Random(0)  # noqa: S311 (no secret)
    for _ in range(300):
        damaged = bytearray(content)
        start = generator.randrange(len(content))
        damaged[start : start + generator.choice((1, 20, 3000))] = generator.randbytes(generator.choice((1, 20, 3000)))
        path.write_bytes(damaged)
        index = CacheIndex(path)
        assert all(index.get(key) in (None, value) for key, value in VALUES.items())
        assert works(index)


STRANGE: dict[str, Callable[[Path], object]] = {
    "no UTF-8": lambda path: change(path, "UPDATE facts SET value = CAST(x'fffe00' AS TEXT)"),
    "numbers": lambda path: change(path, "UPDATE facts SET value = 7, sum = 7"),
    "nothing": lambda path: change(path, "UPDATE facts SET value = NULL, sum = NULL"),
    "values of other keys": lambda path: change(path, "UPDATE facts SET value = (SELECT value FROM facts LIMIT 1)"),
    "another table": lambda path: change(path, "ALTER TABLE facts RENAME COLUMN sum TO total"),
    "no database": lambda path: path.write_bytes(b"no database at all" * 300),
    "half of it": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "UTF-16": lambda path: path.write_bytes("nothing".encode("utf-16") * 3000),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("fault", STRANGE)
def test_an_index_with_strange_content_is_replaced(path: Path, fault: str) -> None:
    STRANGE[fault](path)
    index = CacheIndex(path)
    known = {key: index.get(key) for key in VALUES}
    assert all(value in (None, VALUES[key]) for key, value in known.items())
    assert works(index)
    assert works(CacheIndex(path))


@pytest.mark.parametrize("fault", STRANGE)
def test_an_index_that_is_damaged_while_it_is_open_is_replaced(path: Path, fault: str) -> None:
    index = CacheIndex(path)
    STRANGE[fault](path)
    assert all(index.get(key) in (None, value) for key, value in VALUES.items())
    for _ in range(3):
        index.put("new", [1, 2])
    assert index.get("new") in (None, [1, 2])


def test_a_damaged_index_that_cannot_be_removed_is_not_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(30, "Read-only file system")

    path.write_bytes(b"no database at all" * 300)
    monkeypatch.setattr(Path, "unlink", refuse)
    index = CacheIndex(path)
    assert works(index)
    assert "cannot be used" in (index.trouble or "")
    assert path.read_bytes().startswith(b"no database")


def test_a_folder_with_the_name_of_the_index_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").mkdir()
    index = CacheIndex(tmp_path / "index.sqlite")
    assert works(index)
    assert index.trouble is not None


def test_an_index_that_another_process_locks_is_waited_for_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_index, "_PATIENCE", 0.1)
    index = CacheIndex(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert index.get("key 1") is None
        assert works(index)
        assert works(CacheIndex(path))
    assert "locked" in (index.trouble or "")


def test_a_read_only_index_still_returns_its_values(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sqlite3.connect

    def read_only(place: object, **options: object) -> sqlite3.Connection:
        return real(f"file:{place}?mode=ro", uri=True, **options)  # pyright: ignore

    monkeypatch.setattr(sqlite3, "connect", read_only)  # a read-only disk, also for root
    index = CacheIndex(path)
    index.put("key 1", "another")
    assert index.get("key 1") == VALUES["key 1"]
