"""The pack's settings and its cache, where a file or a folder is not as it should be."""

import json
import logging
import sqlite3
from pathlib import Path

import folder_paths
import pytest
import torch

from lora_transfer.core.cache import SubspaceCache
from lora_transfer.core.resources import Resources
from lora_transfer.nodes.host import settings
from lora_transfer.nodes.host.settings import LIMIT, PRECISION, cache_folder, subspace_cache
from tests.core.test_cache import run


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's user folder, without settings."""
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    settings._warn.cache_clear()
    (tmp_path / "default").mkdir()
    return tmp_path


def write(user: Path, content: str | bytes) -> None:
    path = user / "default" / "comfy.settings.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


UNUSABLE = ["NaN", "-1", "0", "-Infinity", '"20"', "null", "true", "[20]", "{}", "-1e400"]


@pytest.mark.parametrize("limit", UNUSABLE)
def test_a_limit_that_cannot_be_used_is_the_default_and_the_log_says_so_once(
    user: Path, limit: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(user, f'{{"{LIMIT}": {limit}, "{PRECISION}": "float16"}}')
    for _ in range(3):
        assert cache_folder("subspaces") == (user / "lora_transfer" / "subspaces", 20 * 10**9)
        assert getattr(subspace_cache(), "precision", None) == "float16"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"setting {LIMIT}: expected a number of gigabytes above 0" in record.message


@pytest.mark.parametrize("limit", ["Infinity", "1e400", "1" + "0" * 400, "1e9"])
def test_a_limit_without_end_is_more_than_any_disk_holds(user: Path, limit: str) -> None:
    write(user, f'{{"{LIMIT}": {limit}}}')
    cache = subspace_cache()
    assert cache is not None
    assert cache.limit == 10**15


@pytest.mark.parametrize("precision", ["3", "null", '["float32"]', "{}", '"float64"', "true", '""'])
def test_a_precision_that_cannot_be_used_is_the_default(
    user: Path, precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(user, f'{{"{PRECISION}": {precision}}}')
    assert getattr(subspace_cache(), "precision", None) == "float32"
    assert "expected one of float32, float16, off" in caplog.records[0].message


@pytest.mark.parametrize("content", [b"", b"\xff\xfe{", b"[]", b"3", b"null", b"[" * 100_000, b'{"a": ' * 50_000])
def test_settings_that_cannot_be_read_are_no_settings(user: Path, content: bytes) -> None:
    write(user, content)
    assert getattr(subspace_cache(), "limit", None) == 20 * 10**9


def test_off_is_off(user: Path) -> None:
    write(user, json.dumps({PRECISION: "off"}))
    assert subspace_cache() is None
    assert cache_folder("teacher") is None


@pytest.mark.parametrize("in_the_way", ["lora_transfer", "lora_transfer/subspaces"])
def test_a_folder_that_cannot_be_made_is_done_without_and_the_log_says_so_once(
    user: Path, in_the_way: str, caplog: pytest.LogCaptureFixture
) -> None:
    (user / in_the_way).parent.mkdir(exist_ok=True)
    (user / in_the_way).write_text("a file")
    assert [subspace_cache() for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1
    assert "no cache of decomposed bases" in caplog.records[0].message


def test_a_damaged_index_in_a_read_only_folder_ends_no_run(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = run(None)[2]
    folder = user / "lora_transfer" / "subspaces"
    folder.mkdir(parents=True)
    (folder / "index.sqlite").write_bytes(b"no database at all" * 300)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    for name in ("unlink", "write_bytes", "mkdir"):
        monkeypatch.setattr(Path, name, refuse)
    real = Path.mkdir
    monkeypatch.setattr(Path, "mkdir", lambda path, **options: None if path.is_dir() else real(path, **options))
    cache = subspace_cache()
    assert cache is not None
    _, comparison, moved = run(cache)
    assert all(torch.equal(moved.deltas[name].dense(), delta.dense()) for name, delta in right.deltas.items())
    assert sum("cannot be used" in note for note in comparison.notes) == 1
    assert sum("Read-only file system" in note for note in comparison.notes) == 1


def test_figures_that_an_index_was_made_to_tell_are_not_believed(user: Path) -> None:
    cache = subspace_cache()
    assert cache is not None
    _, right, _ = run(cache)
    with sqlite3.connect(cache.folder / "index.sqlite") as index:
        index.execute("UPDATE facts SET value = replace(value, '0.', '0.1')")
    _, again, _ = run(SubspaceCache(cache.folder))
    assert again.layers == right.layers
    assert again.notes == ()


def test_without_a_cache_nothing_is_noted(user: Path) -> None:
    assert Resources(cache=None).notes == {}
