"""Load LoRA from Another Base: it transfers a LoRA once, keeps the result, and never uses it for other content."""

import json
import os
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

from lora_transfer.core.errors import InvalidSetting, NothingToTransfer
from lora_transfer.core.files.file_state import FileState
from lora_transfer.core.plan import TransferSettings
from lora_transfer.core.resources import Resources
from lora_transfer.nodes.host.base import fingerprint
from lora_transfer.nodes.host.base.from_model import base_from_model
from lora_transfer.nodes.host.loader import LoaderInputs, LoaderResult, load_from_another_base
from lora_transfer.nodes.host.settings import PRECISION
from lora_transfer.nodes.host.source import AUTO, NOT_ON_DISK
from lora_transfer.nodes.loader import LoadLoraFromAnotherBase
from tests.host.small_families import write_small
from tests.host.test_merges import small_clip

FAMILY = "Wan 2.1 1.3B"


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

    def settle(self) -> None:
        """Wait until all files are old enough for their times to be relied on."""
        while not all(FileState.of(path.stat()).settled for path in self.models.iterdir()):
            time.sleep(0.1)

    def kept(self) -> list[Path]:
        return sorted(self.results.glob("*.safetensors"))


_hooks: list[Disk] = []  # an audit hook cannot be removed


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _hooks and isinstance(arguments[0], str):
        _hooks[-1].opened.append(arguments[0])


sys.addaudithook(_record)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small models, one drifted from the other, and a LoRA of the first."""
    folder = tmp_path_factory.mktemp("small")
    write_small(folder / "source.safetensors", FAMILY, 1, torch.float16)
    write_small(folder / "target.safetensors", FAMILY, 2, torch.float16, drifted_from=1)
    write_lora(folder / "lora.safetensors", folder / "source.safetensors", 3)
    return folder


def write_lora(path: Path, base: Path, seed: int) -> None:
    """A LoRA on every matrix of the base's blocks."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for key, weight in load_file(base).items():
        if key.startswith("blocks.") and weight.ndim == 2:
            module = f"diffusion_model.{key.removesuffix('.weight')}"
            tensors[f"{module}.lora_up.weight"] = torch.randn(len(weight), 4, generator=generator) * 0.1
            tensors[f"{module}.lora_down.weight"] = torch.randn(4, weight.shape[1], generator=generator) * 0.1
    save_file(tensors, path)


@pytest.fixture
def disk(small: Path, tmp_path: Path) -> Iterator[Disk]:
    models = tmp_path / "models"
    models.mkdir()
    disk = Disk(models, tmp_path / "lora_transfer" / "transferred")
    for path in small.iterdir():
        (models / path.name).write_bytes(path.read_bytes())
    user, folders = folder_paths.get_user_directory(), dict(folder_paths.folder_names_and_paths)
    folder_paths.set_user_directory(str(tmp_path))
    for kind in ("diffusion_models", "loras"):
        folder_paths.folder_names_and_paths[kind] = ([str(models)], {".safetensors"})
    folder_paths.filename_list_cache.clear()
    _hooks.append(disk)
    yield disk
    _hooks.clear()
    folder_paths.folder_names_and_paths.update(folders)
    folder_paths.filename_list_cache.clear()
    folder_paths.set_user_directory(user)


def model_at(path: Path) -> Any:
    with torch.inference_mode():
        return comfy.sd.load_diffusion_model(str(path))


def load(model: Any, strength: float = 1.0, settings: TransferSettings | None = None, **other: Any) -> LoaderResult:
    inputs = LoaderInputs(model, None, "lora.safetensors", "diffusion_models/source.safetensors")
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
    disk.settle()
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
    disk.settle()
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
    write_lora(disk.models / "second.safetensors", disk.source, 5)
    first = load(model, lora_name="second.safetensors")
    both = load(first.model)
    assert was_kept(both)
    assert_equal(alone, both)
    assert {len(patches) for patches in both.model.patches.values()} == {2}
    assert [line.text for line in both.lines] == [line.text for line in load(model).lines]


def test_another_lora_under_the_same_name_is_transferred_anew(disk: Disk) -> None:
    model = model_at(disk.target)
    first = load(model)
    write_lora(disk.lora, disk.source, 5)
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
    tensors["blocks.0.ffn.0.weight"].view(-1)[12345] += 0.25
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


def test_unrelated_bases_are_refused_with_what_to_do_and_only_copy_loads_the_lora_as_it_is(disk: Disk) -> None:
    stranger = model_at(write_small(disk.models / "stranger.safetensors", FAMILY, 9, torch.float16))
    with pytest.raises(NothingToTransfer, match=r"source\.safetensors to stranger\.safetensors: .* Refine LoRA"):
        load(stranger)
    copied, again = (load(stranger, settings=TransferSettings("copy")) for _ in range(2))
    lora = load_file(disk.lora)
    assert all(torch.equal(value, copied.lora_model[key]) for key, value in lora.items())
    assert copied.lines[0].tone == "bad"
    assert was_kept(again)
    assert_equal(copied, again)
    doubled = load(stranger, settings=TransferSettings("copy", gain=2.0))
    assert torch.allclose(change_of(doubled), 2 * change_of(copied))


def test_a_pair_that_was_refused_is_not_compared_again(disk: Disk) -> None:
    stranger = model_at(write_small(disk.models / "stranger.safetensors", FAMILY, 9, torch.float16))
    disk.settle()
    refusals: list[str] = []
    for _ in range(2):
        disk.opened.clear()
        with pytest.raises(NothingToTransfer) as refusal:
            load(stranger)
        refusals.append(str(refusal.value))
    assert refusals[0] == refusals[1]
    assert not disk.was_opened(disk.source)
    (path,) = disk.kept()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(NothingToTransfer) as refusal:
        load(stranger)
    assert str(refusal.value) == refusals[0]
    assert not was_kept(load(stranger, settings=TransferSettings("copy")))


def change_of(result: LoaderResult) -> torch.Tensor:
    """What the LoRA adds to a layer."""
    module = "diffusion_model.blocks.0.ffn.0"
    down = result.lora_model[f"{module}.lora_down.weight"]
    scale = float(result.lora_model.get(f"{module}.alpha", torch.tensor(len(down)))) / len(down)
    return scale * result.lora_model[f"{module}.lora_up.weight"] @ down


@pytest.mark.parametrize("how", ["the same file", "a copy of the file", "an equal model"])
def test_a_lora_of_the_connected_model_is_loaded_as_it_is(disk: Disk, how: str) -> None:
    model = model_at(disk.source)
    if how == "a copy of the file":
        (disk.models / "copy.safetensors").write_bytes(disk.source.read_bytes())
        result = load(model, trained_on="diffusion_models/copy.safetensors")
    else:
        result = load(model, source_model=model_at(disk.source) if how == "an equal model" else None)
    assert "as it is" in result.lines[0].text
    assert result.report is None
    lora = load_file(disk.lora)
    assert result.lora_model.keys() == lora.keys()
    assert disk.kept() == []
    doubled = load(model, settings=TransferSettings(gain=2.0))
    assert torch.allclose(change_of(doubled), 2 * change_of(result))


def test_a_source_with_a_merge_on_it_is_another_base(disk: Disk) -> None:
    model = model_at(disk.source)
    model.add_patches({"diffusion_model.blocks.0.ffn.0.weight": (torch.ones(256, 128),)}, 0.1)
    report = load(model).report
    assert report is not None
    assert any("changed by a merge" in note for note in report["notes"])


def test_a_connected_source_model_gives_what_its_file_gives(disk: Disk) -> None:
    model = model_at(disk.target)
    from_file = load(model)
    from_model = load(model, source_model=model_at(disk.source), trained_on="diffusion_models/none.safetensors")
    assert not was_kept(from_model)
    assert_equal(from_file, from_model)


def test_a_lora_whose_source_is_not_on_this_disk_is_transferred_by_names_and_kept(disk: Disk) -> None:
    model = model_at(disk.target)
    disk.source.unlink()
    first, second = (load(model, trained_on=NOT_ON_DISK) for _ in range(2))
    assert was_kept(second)
    assert_equal(first, second)
    assert any("could not be checked" in line.text for line in second.lines)


def test_a_lora_that_does_not_say_where_it_comes_from_is_asked_for_with_the_candidates(disk: Disk) -> None:
    with pytest.raises(InvalidSetting, match=r"lora\.safetensors.*trained_on.*not on this disk"):
        load(model_at(disk.target), trained_on=AUTO)


def test_auto_takes_the_base_that_the_lora_names_shows_the_evidence_and_reads_no_base_again(disk: Disk) -> None:
    save_file(load_file(disk.lora), disk.lora, {"ss_sd_model_name": "source.safetensors"})
    write_small(disk.models / "third.safetensors", FAMILY, 8, torch.float16)
    disk.settle()
    model = model_at(disk.target)
    first = load(model, trained_on=AUTO)
    assert "was trained on diffusion_models/source.safetensors" in first.lines[0].text
    assert any("ss_sd_model_name" in line.text for line in first.lines)
    assert_equal(first, load(model))
    disk.opened.clear()
    second = load(model, trained_on=AUTO)
    assert was_kept(second)
    assert second.lines[0] == first.lines[0]
    assert [path.name for path in disk.models.iterdir() if disk.was_opened(path)] == ["lora.safetensors"]


def test_auto_on_the_base_that_the_lora_names_loads_it_as_it_is(disk: Disk) -> None:
    save_file(load_file(disk.lora), disk.lora, {"ss_sd_model_name": "source.safetensors"})
    result = load(model_at(disk.source), trained_on=AUTO)
    assert any("as it is" in line.text for line in result.lines)
    assert result.report is None


def test_the_part_for_a_text_encoder_goes_to_the_clip_if_it_is_connected(disk: Disk) -> None:
    module = "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1"
    tensors = load_file(disk.lora)
    encoder = {f"{module}.lora_up.weight": torch.ones(24, 2), f"{module}.lora_down.weight": torch.ones(2, 16)}
    save_file({**tensors, **encoder}, disk.lora)
    model, clip = model_at(disk.target), small_clip(1)
    alone, both = load(model), load(model, clip=clip)
    assert not any(key.startswith("text_encoders.") for key in alone.lora_model)
    assert torch.allclose(
        both.lora_model[f"{module}.lora_up.weight"] @ both.lora_model[f"{module}.lora_down.weight"],
        encoder[f"{module}.lora_up.weight"] @ encoder[f"{module}.lora_down.weight"],
    )
    assert both.clip.patcher.patches.keys() == {f"{module.removeprefix('text_encoders.')}.weight"}
    assert not was_kept(load(model, clip=small_clip(2)))
    assert was_kept(load(model, clip=clip))


def test_nothing_is_kept_if_caches_are_off_and_the_node_says_so(disk: Disk) -> None:
    settings = disk.results.parent.parent / "default"
    settings.mkdir()
    (settings / "comfy.settings.json").write_text(json.dumps({PRECISION: "off"}))
    model = model_at(disk.target)
    first, second = load(model), load(model)
    assert not was_kept(second)
    assert_equal(first, second)
    assert "Caches are off" in first.lines[-1].text
    assert disk.kept() == []


def test_a_folder_that_cannot_be_written_is_told_and_ends_no_run(disk: Disk) -> None:
    disk.results.parent.mkdir()
    disk.results.write_text("a file where the folder should be")
    result = load(model_at(disk.target))
    assert result.lines[-1].tone == "warn"
    assert "cannot be kept" in result.lines[-1].text


def test_a_later_process_does_not_hash_a_model_again_whose_file_is_older_than_itself(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    real = fingerprint._hash_of
    monkeypatch.setattr(fingerprint, "_hash_of", lambda values: (hashed.append(""), real(values))[1])
    models = [model_at(disk.target) for _ in range(4)]  # each is new in memory, as in a later process
    young = base_from_model(models[0]).fingerprint, base_from_model(models[1]).fingerprint
    assert len(hashed) == 2  # the file may have changed after it was loaded
    monkeypatch.setattr(fingerprint, "_process_start", lambda: time.time() + 3600)
    old = base_from_model(models[2]).fingerprint, base_from_model(models[3]).fingerprint
    assert len(hashed) == 3
    assert len({*young, *old}) == 1
    os.utime(disk.target)
    assert base_from_model(model_at(disk.target)).fingerprint == young[0]
    assert len(hashed) == 4


@pytest.mark.parametrize("trained_on", [AUTO, "diffusion_models/source.safetensors"])
def test_the_node_watches_the_files_that_its_result_depends_on(disk: Disk, trained_on: str) -> None:
    def states(trained_on: str = trained_on) -> list[str]:
        return LoadLoraFromAnotherBase.fingerprint_inputs("lora.safetensors", trained_on)

    before = states()
    assert states() == before
    for path in (disk.lora, disk.source):
        path.write_bytes(path.read_bytes())
        assert states() != before
        before = states()
    disk.target.write_bytes(disk.target.read_bytes())
    assert (states() == before) == (trained_on != AUTO)
    before = states(NOT_ON_DISK)
    disk.source.write_bytes(disk.source.read_bytes())
    assert states(NOT_ON_DISK) == before
