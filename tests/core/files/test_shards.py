import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lora_transfer.core.errors import ChangedFile, UnreadableFile
from lora_transfer.core.files import TensorFile, open_tensor_file
from lora_transfer.core.files.shards import open_model_file, require_whole, shard_paths
from lora_transfer.core.layers import Rows

TENSORS = {f"layer{index}": torch.full((3, 2), float(index)) for index in range(6)}


def write(folder: Path, names: list[str], index: str | None = None) -> list[Path]:
    """Distribute tensors over files with these names, and write an index if it has a name."""
    homes = {key: names[place % len(names)] for place, key in enumerate(TENSORS)}
    for name in names:
        save_file({key: TENSORS[key] for key in TENSORS if homes[key] == name}, folder / name, {"from": name})
    if index is not None:
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": homes}))
    return [folder / name for name in names]


NAMES = [
    [f"model-0000{index}-of-00003.safetensors" for index in (1, 2, 3)],
    [f"model.fp16-0000{index}-of-00003.safetensors" for index in (1, 2, 3)],
    [f"v2-of-5_model_{index}_of_3.safetensors" for index in (1, 2, 3)],
    [f"model-0000{index}-of-00003.safetensors" for index in (0, 1, 2)],
]


@pytest.mark.parametrize("names", NAMES)
def test_any_shard_opens_all_by_the_numbers_in_their_names(tmp_path: Path, names: list[str]) -> None:
    for path in write(tmp_path, names):
        file = open_model_file(path)
        assert set(file.tensors) == set(TENSORS)
        assert all(torch.equal(file.read(key), value) for key, value in TENSORS.items())
        assert [part.path.name for part in file.parts()] == names
        require_whole(file)


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "x.safetensors.index.fp16.json"])
def test_an_index_gives_the_shards_whatever_their_names(tmp_path: Path, index: str) -> None:
    first, *_ = write(tmp_path, ["a.safetensors", "b.safetensors"], index)
    file = open_model_file(first)
    assert set(file.tensors) == set(TENSORS)
    assert torch.equal(file.read("layer3", Rows(1, 3)), TENSORS["layer3"][1:3])


@pytest.mark.parametrize("names", NAMES[:3])
@pytest.mark.parametrize("index", [None, "model.safetensors.index.json"])
def test_a_missing_shard_is_named(tmp_path: Path, names: list[str], index: str | None) -> None:
    first, second, third = write(tmp_path, names, index)
    second.unlink()
    for path in (first, third):
        with pytest.raises(UnreadableFile, match=f"one of the 3 files of a model, and {names[1]} is not beside it"):
            open_model_file(path)


@pytest.mark.parametrize("content", [b"no json", b"\xff\xfe\x00", b"[]", b'{"weight_map": 3}', b"[" * 100_000])
def test_without_a_readable_index_the_numbers_in_the_names_are_used(tmp_path: Path, content: bytes) -> None:
    first, *_ = write(tmp_path, NAMES[0])
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    assert set(open_model_file(first).tensors) == set(TENSORS)


def test_an_index_that_leads_out_of_the_folder_is_ignored(tmp_path: Path) -> None:
    first, *_ = write(tmp_path, ["a.safetensors", "b.safetensors"])
    homes = {"layer0": "a.safetensors", "layer1": "../b.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": homes}))
    assert shard_paths(first) == [first]


def test_shards_of_two_models_are_refused(tmp_path: Path) -> None:
    first, second, _ = write(tmp_path, NAMES[0], "model.safetensors.index.json")
    save_file({"another": torch.ones(2)}, second)
    with pytest.raises(UnreadableFile, match="belong to different models"):
        open_model_file(first)
    (tmp_path / "model.safetensors.index.json").unlink()
    save_file(TENSORS, second)
    with pytest.raises(UnreadableFile, match="is in two files"):
        open_model_file(first)


@pytest.mark.parametrize("name", ["whole", "model-00001-of-00001", "best-of-3", "epoch-7-of-3", "a-1-of-10"])
def test_a_file_that_is_not_a_shard_is_opened_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.safetensors"
    save_file(TENSORS, path)
    (tmp_path / "other.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "other.safetensors"}}))
    assert type(open_model_file(path)) is TensorFile


def test_a_shard_that_was_opened_alone_is_not_whole(tmp_path: Path) -> None:
    first, *_ = write(tmp_path, NAMES[0])
    with pytest.raises(UnreadableFile, match="one of the 3 files"):
        require_whole(open_tensor_file(first))


def test_a_shard_that_changes_is_refused_and_the_others_can_still_be_read(tmp_path: Path) -> None:
    first, second, _ = write(tmp_path, NAMES[0])
    file = open_model_file(first)
    save_file({"layer1": torch.zeros(3, 2), "layer4": torch.zeros(3, 2)}, second)
    assert torch.equal(file.read("layer0"), TENSORS["layer0"])
    with pytest.raises(ChangedFile, match=NAMES[0][1]):
        file.read("layer1")
