"""Sets of tensors on disk are whole or absent, and bounded."""

import os
from pathlib import Path

import pytest
import torch

from lora_transfer.core.tensor_store import StoredTensors, TensorStore

ROOMY = 10**9


def some_set(value: float, size: int = 4) -> StoredTensors:
    tensors = {"a": torch.full((size,), value), "b": torch.tensor(7), "half": torch.ones(2, 3).half()}
    return StoredTensors(tensors, {"name": "näme", "figures": [1, 2.5, None]})


def assert_same(stored: StoredTensors | None, expected: StoredTensors) -> None:
    assert stored is not None
    assert stored.facts == expected.facts
    assert stored.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert stored.tensors[name].dtype == tensor.dtype
        assert torch.equal(stored.tensors[name], tensor)


def test_a_set_is_read_as_it_was_written_also_by_another_process(tmp_path: Path) -> None:
    TensorStore(tmp_path / "new", ROOMY).write("key", some_set(1))
    assert_same(TensorStore(tmp_path / "new", ROOMY).read("key"), some_set(1))
    assert TensorStore(tmp_path / "new", ROOMY).read("other") is None


def test_tensors_that_share_memory_are_stored(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    shared = StoredTensors({"whole": whole, "turned": whole.T, "row": whole[1]}, {})
    store = TensorStore(tmp_path, ROOMY)
    store.write("key", shared)
    assert_same(store.read("key"), shared)


def test_no_tensors_at_all_are_a_set_too(tmp_path: Path) -> None:
    store = TensorStore(tmp_path, ROOMY)
    store.write("key", StoredTensors({}, {"empty": True}))
    assert_same(store.read("key"), StoredTensors({}, {"empty": True}))


def test_every_damaged_byte_is_noticed_and_the_set_is_removed(tmp_path: Path) -> None:
    store = TensorStore(tmp_path, ROOMY)
    store.write("key", some_set(1))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    # Not the first bytes of the JSON, where a space for a space changes nothing; safetensors pads with spaces.
    for position in (*range(0, len(whole), 17), len(whole) - 1):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        assert store.read("key") is None, position
        assert not path.exists()
    path.write_bytes(whole)
    assert_same(store.read("key"), some_set(1))


def test_a_set_under_another_key_counts_as_damaged(tmp_path: Path) -> None:
    store = TensorStore(tmp_path, ROOMY)
    store.write("first", some_set(1))
    os.replace(tmp_path / "first.safetensors", tmp_path / "second.safetensors")
    assert store.read("second") is None


def test_the_least_recently_used_sets_go_first_and_never_the_newest(tmp_path: Path) -> None:
    size = TensorStore(tmp_path, ROOMY).write("a", some_set(1, 1000))
    store = TensorStore(tmp_path, 2 * size + size // 2)
    store.write("b", some_set(2, 1000))
    for age, key in enumerate(("b", "a")):
        os.utime(tmp_path / f"{key}.safetensors", (1000 - age, 1000 - age))
    assert store.read("a") is not None  # now the most recently used
    store.write("c", some_set(3, 1000))
    assert [key for key in "abc" if store.read(key)] == ["a", "c"]
    TensorStore(tmp_path, 1).write("d", some_set(4, 1000))
    assert [key for key in "abcd" if store.read(key)] == ["d"]


def test_a_folder_that_cannot_be_written_raises_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = TensorStore(tmp_path / "file", ROOMY)
    with pytest.raises(OSError, match="file"):
        store.write("key", some_set(1))
    assert store.read("key") is None


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit for the size of a file")
def test_a_set_that_does_not_fit_raises_and_leaves_the_old_one(tmp_path: Path) -> None:
    import resource

    store = TensorStore(tmp_path, ROOMY)
    store.write("key", some_set(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # a write beyond it fails, as on a full disk
    try:
        with pytest.raises(OSError, match=r"(?i)large"):
            store.write("key", some_set(2, 100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_same(store.read("key"), some_set(1))
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_crash_left_is_removed_after_a_day(tmp_path: Path) -> None:
    old, new = tmp_path / "old.unfinished", tmp_path / "new.unfinished"
    for path in (old, new):
        path.write_bytes(b"half a set")
    os.utime(old, (1000, 1000))
    TensorStore(tmp_path, ROOMY).write("key", some_set(1))
    assert not old.exists()
    assert new.exists()
