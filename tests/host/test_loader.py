"""Load LoRA from Another Base: it transfers a LoRA once, keeps the result, and never uses it for other content."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths
import pytest
import torch
from safetensors.torch import load_file, save_file

from dev.small_models import write_lora
from lora_transfer.core.files.file_state import FileState
from lora_transfer.core.plan import TransferSettings
from lora_transfer.core.resources import Resources
from lora_transfer.nodes.host.loader import LoaderInputs, LoaderResult, load_from_another_base
from tests.host.conftest import SmallPair


@dataclass
class Disk:
    """ComfyUI's folders with a small pair, and the files that this process opens."""

    models: Path
    results: Path
    opened: list[str] = field(default_factory=list[str])

    @property
    def source(self) -> Path:
        return self.models / "source.safetensors"

    @property
    def target(self) -> Path:
        return self.models / "target.safetensors"

    @property
    def lora(self) -> Path:
        return self.models / "lora.safetensors"

    def was_opened(self, path: Path) -> bool:
        return str(path) in self.opened

    def kept(self) -> list[Path]:
        return sorted(self.results.glob("*.safetensors"))


_hooks: list[Disk] = []  # an audit hook cannot be removed


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _hooks and isinstance(arguments[0], str):
        _hooks[-1].opened.append(arguments[0])


sys.addaudithook(_record)


@pytest.fixture
def disk(pair: SmallPair, tmp_path: Path) -> Iterator[Disk]:
    models = tmp_path / "models"
    models.mkdir()
    disk = Disk(models, tmp_path / "lora_transfer" / "transferred")
    for path, copy in ((pair.source, disk.source), (pair.target, disk.target), (pair.lora, disk.lora)):
        copy.write_bytes(path.read_bytes())
    user, folders = folder_paths.get_user_directory(), dict(folder_paths.folder_names_and_paths)
    folder_paths.set_user_directory(str(tmp_path))
    for kind in ("checkpoints", "loras"):
        folder_paths.folder_names_and_paths[kind] = ([str(models)], {".safetensors"})
    folder_paths.filename_list_cache.clear()
    while not all(FileState.of(path.stat()).settled for path in models.iterdir()):
        time.sleep(0.1)  # the times of a file that was just written are never relied on
    _hooks.append(disk)
    yield disk
    _hooks.clear()
    folder_paths.folder_names_and_paths.update(folders)
    folder_paths.filename_list_cache.clear()
    folder_paths.set_user_directory(user)


def model_at(path: Path) -> Any:
    with torch.inference_mode():
        return comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=False)[0]


def load(model: Any, strength: float = 1.0, settings: TransferSettings | None = None, **other: Any) -> LoaderResult:
    inputs = LoaderInputs(model, None, "lora.safetensors", "checkpoints/source.safetensors")
    with torch.inference_mode():
        return load_from_another_base(
            replace(inputs, **other), strength, 0.0, settings or TransferSettings(), Resources, lambda _: None
        )


def was_kept(result: LoaderResult) -> bool:
    return any("kept from an earlier run" in line.text for line in result.lines)


def assert_equal(first: LoaderResult, second: LoaderResult) -> None:
    assert first.lora_model.keys() == second.lora_model.keys()
    assert all(torch.equal(value, second.lora_model[key]) for key, value in first.lora_model.items())


def test_a_second_run_at_another_strength_reads_no_base_and_transfers_the_same(disk: Disk) -> None:
    model = model_at(disk.target)
    first = load(model)
    assert not was_kept(first)
    assert disk.was_opened(disk.source)
    disk.opened.clear()
    second = load(model, 0.5)
    assert was_kept(second)
    assert_equal(first, second)
    assert not disk.was_opened(disk.source)
    assert not disk.was_opened(disk.target)
    strengths = {patch[0] for patches in second.model.patches.values() for patch in patches}
    assert strengths == {0.5}


def test_a_model_that_is_loaded_again_after_a_restart_finds_the_kept_result(disk: Disk) -> None:
    first = load(model_at(disk.target))
    model = model_at(disk.target)  # new in memory, as after a restart
    disk.opened.clear()
    second = load(model)
    assert was_kept(second)
    assert_equal(first, second)
    assert not disk.was_opened(disk.source)
    assert not disk.was_opened(disk.target)


def test_a_second_loader_in_a_row_adds_its_lora_and_transfers_it_as_if_it_were_alone(disk: Disk) -> None:
    model = model_at(disk.target)
    alone = load(model)
    write_lora(disk.models / "second.safetensors", disk.source, seed=5)
    first = load(model, lora_name="second.safetensors")
    both = load(first.model)
    assert was_kept(both)
    assert_equal(alone, both)
    assert {len(patches) for patches in both.model.patches.values()} == {2}
    assert [line.text for line in both.lines] == [line.text for line in load(model).lines]


def test_another_lora_under_the_same_name_is_transferred_anew(disk: Disk) -> None:
    model = model_at(disk.target)
    first = load(model)
    write_lora(disk.lora, disk.source, seed=5)
    second = load(model)
    assert not was_kept(second)
    assert any(not torch.equal(value, second.lora_model[key]) for key, value in first.lora_model.items())


def test_another_source_under_the_same_name_is_read_anew(disk: Disk) -> None:
    model = model_at(disk.target)
    load(model)
    tensors = load_file(disk.source)
    key = next(key for key, value in tensors.items() if value.ndim == 2)
    tensors[key].view(-1)[0] += 0.25
    save_file(tensors, disk.source)
    second = load(model)
    assert not was_kept(second)
    assert was_kept(load(model))


def test_another_target_under_the_same_name_is_transferred_to_anew(disk: Disk) -> None:
    load(model_at(disk.target))
    tensors = load_file(disk.target)
    tensors["model.diffusion_model.input_blocks.1.0.in_layers.2.weight"].view(-1)[12345] += 0.25
    save_file(tensors, disk.target)
    assert not was_kept(load(model_at(disk.target)))


def test_each_setting_has_a_result_of_its_own(disk: Disk) -> None:
    model = model_at(disk.target)
    results = [load(model, settings=settings) for settings in SETTINGS]
    assert not any(was_kept(result) for result in results)
    assert all(was_kept(load(model, settings=settings)) for settings in SETTINGS)


SETTINGS = (
    TransferSettings(),
    TransferSettings("copy"),
    TransferSettings(gain=1.5),
    TransferSettings(threshold=0.5),
)


@pytest.mark.parametrize("damage", ["cut short", "a bit flipped", "empty", "another result", "text"])
def test_a_damaged_result_is_made_anew(disk: Disk, damage: str) -> None:
    model = model_at(disk.target)
    first = load(model)
    (path,) = disk.kept()
    whole = path.read_bytes()
    middle = len(whole) // 2
    if damage == "another result":
        load(model, settings=TransferSettings("copy"))
    others = [other.read_bytes() for other in disk.kept() if other != path]
    path.write_bytes(
        {
            "cut short": whole[:middle],
            "a bit flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "empty": b"",
            "another result": others[0] if others else b"",
            "text": b"not a safetensors file",
        }[damage]
    )
    second = load(model)
    assert not was_kept(second)
    assert_equal(first, second)
    assert path.read_bytes() == whole or was_kept(load(model))
