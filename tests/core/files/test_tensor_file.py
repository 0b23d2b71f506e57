import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_transfer.core.errors import UnreadableFile, UnwritableFile
from lora_transfer.core.files import open_tensor_file, tensor_file, write_new
from lora_transfer.core.layers import Rows

TENSORS = {"a": torch.arange(12.0).reshape(4, 3), "b": torch.ones(2, dtype=torch.bfloat16)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "some.safetensors", {"who": "me"})
    return tmp_path / "some.safetensors"


def test_the_header_gives_shapes_dtypes_and_metadata(path: Path) -> None:
    file = open_tensor_file(path)
    assert {key: (one.shape, one.dtype) for key, one in file.tensors.items()} == {
        "a": ((4, 3), "F32"),
        "b": ((2,), "BF16"),
    }
    assert file.metadata == {"who": "me"}


def test_a_tensor_or_some_of_its_rows_are_read(path: Path) -> None:
    file = open_tensor_file(path)
    assert torch.equal(file.read("a"), TENSORS["a"])
    assert torch.equal(file.read("a", Rows(1, 3)), TENSORS["a"][1:3])
    assert torch.equal(file.read("b"), TENSORS["b"].float())
    assert file.read("b").dtype == torch.float32


def test_a_missing_a_truncated_and_a_foreign_file_have_their_own_errors(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match=r"nowhere.safetensors: not found"):
        open_tensor_file(tmp_path / "nowhere.safetensors")
    whole = path.read_bytes()
    for number, content in enumerate((whole[:-5], whole[:20], b"PK\x03\x04 not at all", b"")):
        broken = tmp_path / f"broken{number}.safetensors"
        broken.write_bytes(content)
        with pytest.raises(UnreadableFile, match="expected a whole safetensors file"):
            open_tensor_file(broken)


def test_writing_takes_the_next_free_number_and_never_overwrites(tmp_path: Path) -> None:
    first = write_new(tmp_path / "loras", "x", TENSORS, {"k": "v"})
    second = write_new(tmp_path / "loras", "x", {"c": torch.zeros(1)}, None)
    assert (first.name, second.name) == ("x.safetensors", "x_2.safetensors")
    assert set(load_file(first)) == {"a", "b"}
    assert sorted(os.listdir(tmp_path / "loras")) == [first.name, second.name]


def test_writing_works_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)  # what an exFAT disk answers
    names = [write_new(tmp_path, "x", TENSORS, None).name for _ in range(2)]
    assert names == ["x.safetensors", "x_2.safetensors"] == sorted(os.listdir(tmp_path))


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half a fi")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_file, "save_file", full)
    with pytest.raises(UnwritableFile, match="No space"):
        write_new(tmp_path, "x", TENSORS, None)
    assert os.listdir(tmp_path) == []


def test_many_threads_at_once_each_write_a_file_of_their_own(tmp_path: Path) -> None:
    def write(number: int) -> tuple[int, Path]:
        return number, write_new(tmp_path, "same", {f"key{number}": torch.full((200, 200), float(number))}, {})

    with ThreadPoolExecutor(8) as threads:
        written = list(threads.map(write, range(16)))
    assert len({path for _, path in written}) == 16
    for number, path in written:
        assert torch.equal(open_tensor_file(path).read(f"key{number}"), torch.full((200, 200), float(number)))
    assert len(list(tmp_path.iterdir())) == 16


@pytest.mark.parametrize(("folder", "stem"), [("a_file", "x"), ("a_file/below", "x"), ("new", "x" * 250)])
def test_a_path_that_cannot_be_written_is_an_error(tmp_path: Path, folder: str, stem: str) -> None:
    (tmp_path / "a_file").write_text("in the way")
    with pytest.raises(UnwritableFile, match="it cannot be written"):
        write_new(tmp_path / folder, stem, {"a": torch.ones(2)}, {})
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "a_file"]
