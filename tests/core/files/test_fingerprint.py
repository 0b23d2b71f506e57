import os
from pathlib import Path

import pytest
import torch
from blake3 import blake3
from safetensors.torch import save_file

from lora_transfer.core.cache import SubspaceCache
from lora_transfer.core.errors import ChangedFile
from lora_transfer.core.files import file_state, open_tensor_file
from lora_transfer.core.files.fingerprint import model_fingerprint
from lora_transfer.core.files.shards import open_model_file


@pytest.fixture(autouse=True)
def always_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_state, "_COARSEST", 0)  # else nothing would be kept of files that were just written


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({f"layer{index}": torch.full((300, 300), float(index)) for index in range(40)}, path)
    return path


def fingerprint(path: Path, cache: SubspaceCache | None = None) -> str:
    return model_fingerprint(open_model_file(path), cache, lambda: None)


def test_it_is_a_hash_of_all_bytes(path: Path) -> None:
    assert fingerprint(path) == f"blake3:{blake3(path.read_bytes()).hexdigest()}"


def test_it_tells_files_apart_that_differ_in_any_one_byte(path: Path) -> None:
    content = path.read_bytes()
    found = {fingerprint(path)}
    places = range(len(content) - 1, 10_000, -len(content) // 50)
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        found.add(fingerprint(path))
    assert len(found) == len(places) + 1


def test_a_file_is_hashed_once_for_each_of_its_states(path: Path, tmp_path: Path) -> None:
    cache = SubspaceCache(tmp_path / "cache")
    first = fingerprint(path, cache)
    opened = open_tensor_file(path)
    status = path.stat()
    assert status.st_atime_ns  # what follows would fail on the second reading: the file is gone
    kept = path.rename(tmp_path / "elsewhere")
    assert model_fingerprint(opened, SubspaceCache(tmp_path / "cache"), lambda: None) == first
    os.replace(kept, path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint(path, cache) != first


def test_every_shard_is_in_it(tmp_path: Path) -> None:
    paths = [tmp_path / f"m-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for number, path in enumerate(paths):
        save_file({f"layer{number}": torch.ones(3)}, path)
    before = fingerprint(paths[0])
    assert fingerprint(paths[1]) == before
    save_file({"layer1": torch.zeros(3)}, paths[1])
    assert fingerprint(paths[0]) != before


def test_a_file_that_changed_since_it_was_opened_has_none_and_none_is_kept(path: Path, tmp_path: Path) -> None:
    cache = SubspaceCache(tmp_path / "cache")
    opened = open_tensor_file(path)
    content = path.read_bytes()

    def change() -> None:
        path.write_bytes(content)

    with pytest.raises(ChangedFile):
        model_fingerprint(opened, cache, change)
    assert fingerprint(path, cache) == f"blake3:{blake3(content).hexdigest()}"
    with pytest.raises(ChangedFile):
        model_fingerprint(opened, cache, lambda: None)


def test_it_can_be_cancelled(path: Path) -> None:
    def cancel() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model_fingerprint(open_tensor_file(path), None, cancel)
