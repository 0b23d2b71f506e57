"""The guess which base file a LoRA was trained on, on real files with the metadata that trainers write."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import comfy.supported_models
import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from lora_transfer.core.files.file_state import state_at
from lora_transfer.nodes.host.adapter.adapter import Adapter, adapter_from_file
from lora_transfer.nodes.host.adapter.base_clues import _FAMILIES
from lora_transfer.nodes.host.base.file_hashes import compute_sha256, known_sha256, legacy_hash
from lora_transfer.nodes.host.base.file_names import ModelName
from lora_transfer.nodes.host.base.fit import find_fitting_bases
from lora_transfer.nodes.host.base.from_file import base_from_file
from lora_transfer.nodes.host.settings import subspace_cache
from lora_transfer.nodes.host.trained_on import Guess, guess_source
from tests.host.small_families import write_small

TARGET, OLD, OTHER = (
    "checkpoints/new.safetensors",
    "checkpoints/sub/old_v1.safetensors",
    "checkpoints/other.safetensors",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small Flux models of 2 MB: the target and two others; a Flux schnell, and an SD3."""
    folder = tmp_path_factory.mktemp("bases")
    for seed, name in enumerate((TARGET, OLD, OTHER)):
        write_small(folder / name, "Flux dev", seed, torch.bfloat16)
    write_small(folder / "diffusion_models/fast.safetensors", "Flux dev", 7, torch.bfloat16, guidance_embed=False)
    write_small(folder / "checkpoints/sd3.safetensors", "SD3 medium", 8, torch.bfloat16)
    return folder


@pytest.fixture(autouse=True)
def user_folder(tmp_path: Path) -> Iterator[None]:
    """An empty cache for each test."""
    before = folder_paths.get_user_directory()
    folder_paths.set_user_directory(str(tmp_path / "user"))
    yield
    folder_paths.set_user_directory(before)


def lora(metadata: dict[str, str] | None = None, name: str = "style.safetensors") -> Adapter:
    tensors = {
        f"{layer}.{end}": value
        for layer, rows in (("img_mlp_0", 512), ("img_attn_qkv", 384))
        for end, value in (("lora_up.weight", torch.ones(rows, 1)), ("lora_down.weight", torch.ones(1, 128)))
    }
    named = {f"lora_unet_double_blocks_0_{key}": value for key, value in tensors.items()}
    return Adapter(name, "hash", metadata or {}, tensors=named)


def guess(folder: Path, adapter: Adapter, *more: str) -> Guess:
    bases = [TARGET, OLD, OTHER, "diffusion_models/fast.safetensors", "checkpoints/sd3.safetensors", *more]
    target = base_from_file(folder / TARGET, TARGET)
    return guess_source(adapter, target, bases, lambda name: folder / name)


def words(guessed: Guess) -> str:
    return " | ".join(guessed.evidence)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hashes(path: Path) -> dict[str, str]:
    """What sd-scripts writes: the two hashes of the base that it was given."""
    sample = path.read_bytes()[0x100000 : 0x100000 + 0x10000]
    return {
        "ss_sd_model_hash": hashlib.sha256(sample).hexdigest()[:8],
        "ss_new_sd_model_hash": sha256(path),
    }


def test_a_lora_without_metadata_gets_no_guess_but_every_file_that_it_fits(folder: Path) -> None:
    guessed = guess(folder, lora())
    assert (guessed.base_name, guessed.sure, guessed.is_target) == (None, False, False)
    assert guessed.candidates == (OLD, OTHER, "diffusion_models/fast.safetensors")
    assert "do not name its base" in words(guessed)


@pytest.mark.parametrize(
    "metadata",
    [
        {"ss_sd_model_name": "old_v1.safetensors"},
        {"ss_sd_model_name": "OLD-v1.ckpt"},
        {"ss_sd_model_name": r"D:\models\Stable-diffusion\old_v1.safetensors"},
        {"ss_sd_model_name": "/workspace/old_v1.safetensors"},
        {"ss_sd_model_name": "old_v1-fp16.safetensors"},
        {"ss_sd_model_name": "someone/old-v1", "ss_sd_model_hash": "NOFILE"},
        {"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.base_model_name_or_path": None})}
        | {"ot_config": json.dumps({"base_model_name": "C:/models/old_v1.safetensors", "more": [{}]})},
        {"config": json.dumps({"process": [{"model": {"name_or_path": "someone/old_v1"}}]})},
        {"base_model": "someone/old_v1"},
        {"lora_transfer": json.dumps({"target": {"name": OLD, "fingerprint": "weights-blake3:1"}})},
    ],
)
def test_a_name_in_the_metadata_is_sure_in_every_spelling(folder: Path, metadata: dict[str, str]) -> None:
    guessed = guess(folder, lora(metadata))
    assert (guessed.base_name, guessed.sure, guessed.is_target) == (OLD, True, False)
    assert guessed.candidates[0] == OLD
    assert "the LoRA names its base" in words(guessed)


def test_a_hash_finds_a_renamed_base(folder: Path) -> None:
    guessed = guess(folder, lora({"ss_sd_model_name": "another.safetensors", **hashes(folder / OLD)}))
    assert (guessed.base_name, guessed.sure) == (OLD, True)
    assert "SHA-256" in words(guessed)


def test_name_and_beginning_agree_so_that_no_file_is_read_whole(folder: Path) -> None:
    wrong_end = {
        **hashes(folder / OLD),
        "ss_new_sd_model_hash": "0" * 64,
    }  # would speak against it, if it were computed
    guessed = guess(folder, lora({"ss_sd_model_name": "old_v1.safetensors", **wrong_end}))
    assert (guessed.base_name, guessed.sure) == (OLD, True)
    assert "same hash at its beginning" in words(guessed)


def test_equal_beginnings_alone_are_no_proof(folder: Path) -> None:
    legacy = {"ss_sd_model_hash": str(legacy_hash(folder / OLD)), "ss_sd_model_name": "gone.safetensors"}
    guessed = guess(folder, lora(legacy))
    assert (guessed.base_name, guessed.sure) == (OLD, False)
    contradicted = guess(folder, lora({**legacy, "ss_new_sd_model_hash": "0" * 64}))
    assert (contradicted.base_name, contradicted.sure) == (None, False)


def test_a_lora_that_names_two_bases_is_not_sure_of_the_only_one_on_the_disk(folder: Path) -> None:
    guessed = guess(folder, lora({"ss_sd_model_name": "gone_v2.safetensors", "base_model": "someone/old_v1"}))
    assert (guessed.base_name, guessed.sure) == (OLD, False)
    assert "several bases" in words(guessed)


def test_a_file_of_the_right_name_with_another_hash_is_a_weak_guess(folder: Path) -> None:
    guessed = guess(folder, lora({"ss_sd_model_name": "old_v1.safetensors", "ss_sd_model_hash": "01234567"}))
    assert (guessed.base_name, guessed.sure) == (OLD, False)
    assert "the hash is not" in words(guessed)


@pytest.mark.parametrize("by", ["hash", "name", "own entry"])
def test_the_target_is_the_guess_where_the_lora_names_it_and_the_guess_says_that_nothing_is_to_do(
    folder: Path, by: str
) -> None:
    fingerprint = base_from_file(folder / TARGET, TARGET).fingerprint
    metadata = {
        "hash": hashes(folder / TARGET),
        "name": {"ss_sd_model_name": "new.safetensors"},
        "own entry": {"lora_transfer": json.dumps({"target": {"name": "x/new", "fingerprint": fingerprint}})},
    }
    guessed = guess(folder, lora(metadata[by]))
    assert (guessed.base_name, guessed.sure, guessed.is_target) == (TARGET, True, True)
    assert "nothing needs to be transferred" in words(guessed)
    assert TARGET not in guessed.candidates


def test_the_targets_name_without_its_folder_is_enough(folder: Path) -> None:
    target = replace(base_from_file(folder / TARGET, "new.safetensors"), path=None)  # as some loaders' models are
    guessed = guess_source(lora(), target, [TARGET, OLD], lambda name: folder / name)
    assert guessed.candidates == (OLD,)


def test_a_file_of_the_targets_name_in_another_folder_is_not_the_target(folder: Path) -> None:
    (folder / "checkpoints/copy").mkdir(exist_ok=True)
    namesake = "checkpoints/copy/new.safetensors"
    shutil.copy(folder / OTHER, folder / namesake)
    assert namesake in guess(folder, lora(), namesake).candidates


def test_a_transferred_lora_belongs_to_its_new_base_whatever_older_entries_say(folder: Path) -> None:
    entry = json.dumps({"source": {"name": OLD}, "target": {"name": OTHER, "fingerprint": "blake3:0"}})
    older = {"base_model": "old_v1", "ss_sd_model_name": "other.safetensors", "lora_transfer": entry}
    guessed = guess(folder, lora(older))
    assert (guessed.base_name, guessed.sure) == (OTHER, False)  # its content is another than at the transfer
    fingerprint = base_from_file(folder / OTHER, OTHER).fingerprint
    entry = json.dumps({"target": {"name": OTHER, "fingerprint": f"{fingerprint} + weights-blake3:2"}})
    guessed = guess(folder, lora(older | {"lora_transfer": entry}))
    assert (guessed.base_name, guessed.sure) == (OTHER, True)


def test_the_family_in_the_metadata_leaves_files_of_other_families_out(folder: Path) -> None:
    guessed = guess(folder, lora({"modelspec.architecture": "Flux-1-schnell/lora"}))
    assert guessed.candidates == ("diffusion_models/fast.safetensors",)
    assert (guessed.base_name, guessed.sure) == ("diffusion_models/fast.safetensors", False)
    assert "weak guess" in words(guessed)


def test_every_family_in_the_table_is_one_of_comfyui() -> None:
    known = {model.__name__ for model in comfy.supported_models.models}
    assert {family for _, families in _FAMILIES for family in families} <= known


def test_a_file_that_is_named_but_does_not_fit_or_cannot_be_read_is_said_to_be_so(folder: Path) -> None:
    shutil.copy(folder / "checkpoints/sd3.safetensors", folder / "checkpoints/medium_three.safetensors")
    named = lora({"ss_sd_model_name": "medium_three.safetensors"})
    guessed = guess(folder, named, "checkpoints/medium_three.safetensors")
    assert guessed.base_name is None
    assert "only 0% of the LoRA fits" in words(guessed)
    (folder / "checkpoints/old.ckpt").write_bytes(b"pickled")
    guessed = guess(folder, lora({"ss_sd_model_name": "old"}), "checkpoints/old.ckpt")
    assert "cannot be read" in words(guessed)
    assert "connect that MODEL" in words(guessed)


def test_a_missing_or_damaged_file_does_not_stop_the_guess(folder: Path) -> None:
    (folder / "checkpoints/broken.safetensors").write_bytes(b"\x08")
    more = ("checkpoints/broken.safetensors", "checkpoints/gone.safetensors")
    assert guess(folder, lora({"ss_sd_model_name": "old_v1"}), *more).base_name == OLD


@pytest.mark.parametrize("name", ["model.safetensors", "unet", "sdxl", "1.safetensors", "", "diffusion_pytorch_model"])
def test_a_name_that_says_nothing_is_no_evidence(folder: Path, name: str) -> None:
    for file in ("model", "unet", "sdxl", "1", "diffusion_pytorch_model"):
        shutil.copy(folder / OTHER, folder / f"checkpoints/{file}.safetensors")
    more = [f"checkpoints/{file}.safetensors" for file in ("model", "unet", "sdxl", "1", "diffusion_pytorch_model")]
    assert not guess(folder, lora({"ss_sd_model_name": name}), *more).sure


def test_copies_in_two_folders_are_the_same_base_and_other_files_of_the_name_are_not(folder: Path) -> None:
    (folder / "checkpoints/copy").mkdir(exist_ok=True)
    copy = "checkpoints/copy/old_v1.safetensors"
    shutil.copy(folder / OLD, folder / copy)
    assert guess(folder, lora({"ss_sd_model_name": "old_v1"}), copy).sure
    write_small(folder / copy, "Flux dev", 3, torch.float32)
    guessed = guess(folder, lora({"ss_sd_model_name": "old_v1"}), copy)
    assert (guessed.base_name, guessed.sure) == (None, False)
    assert set(guessed.candidates[:2]) == {OLD, copy}


def test_modules_that_do_not_fit_a_base_leave_no_error_in_the_log(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layer = "lora_unet_double_blocks_0_img_mlp_0"
    dora = {f"{layer}.lora_up.weight": torch.ones(999, 1), f"{layer}.lora_down.weight": torch.ones(1, 128)}
    adapter = Adapter("dora", "dora", {}, tensors=dora | {f"{layer}.dora_scale": torch.ones(999, 1)})
    assert guess(folder, adapter).candidates == ()
    assert not caplog.records


def test_folder_and_file_name_of_the_lora_are_weak_evidence(folder: Path) -> None:
    pony = "checkpoints/ponyDiffusionV6.safetensors"
    shutil.copy(folder / OTHER, folder / pony)
    for name in ("pony/style.safetensors", "style_ponyDiffusionV6.safetensors"):
        guessed = guess(folder, lora(name=name), pony)
        assert (guessed.base_name, guessed.sure, guessed.candidates[0]) == (pony, False, pony)
        assert "weak guess" in words(guessed)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("adapter_config.json", '{"base_model_name_or_path": "someone/old_v1"}'),
        ("style.metadata.json", '{"base_model": "Old v1"}'),
        ("style.civitai.info", '{"baseModel": "Old v1"}'),
        ("config.yaml", "config:\n  process:\n  - model:\n      name_or_path: 'someone/old_v1'\n"),
        ("config.yaml", "\udcff"),
        ("adapter_config.json", "[1"),
    ],
)
def test_files_beside_the_lora_are_weak_evidence(folder: Path, tmp_path: Path, file: str, text: str) -> None:
    tensors = lora().tensors
    assert tensors is not None
    save_file(dict(tensors), tmp_path / "style.safetensors")
    (tmp_path / file).write_bytes(text.encode(errors="surrogateescape"))
    guessed = guess(folder, adapter_from_file(tmp_path / "style.safetensors", "style.safetensors"))
    assert (guessed.base_name, guessed.sure) == (OLD if "ld" in text else None, False)


@pytest.mark.parametrize(
    "metadata",
    [
        {"ss_sd_model_name": "a" * 10_000_000},
        {"ss_sd_model_name": "\x1b[31m<b>old_v1</b>\n# title"},
        {"lora_transfer": "[" * 100_000, "config": '{"a":' * 10_000},
        {"lora_transfer": '{"target": {"name": 3}}'},
        {"ot_config": '{"base_model_name": {"base_model_name": [1, null]}}'},
        {"ss_sd_model_hash": "\u0660" * 8, "ss_new_sd_model_hash": "zz"},
    ],
)
def test_odd_metadata_are_no_evidence_and_are_shown_as_one_short_line(folder: Path, metadata: dict[str, str]) -> None:
    guessed = guess(folder, lora(metadata))
    assert not guessed.sure
    assert all(sentence.isprintable() and len(sentence) < 400 for sentence in guessed.evidence)


def test_the_hash_that_a_download_tool_left_is_used_unless_the_file_is_newer(folder: Path) -> None:
    path = folder / "checkpoints/loaded.safetensors"
    shutil.copy(folder / OTHER, path)
    beside, truth = path.with_suffix(".metadata.json"), sha256(path)
    for text, expected in (
        (json.dumps({"sha256": truth.upper(), "size": path.stat().st_size}), truth),
        (json.dumps({"sha256": truth, "size": 5}), None),
        ("{", None),
        ("[]", None),
    ):
        beside.write_text(text)
        assert known_sha256(path, None) == expected
    beside.unlink()
    hashes = {
        "files": [{"sizeKB": 1.0, "hashes": {}}, {"sizeKB": path.stat().st_size / 1024, "hashes": {"SHA256": truth}}]
    }
    path.with_suffix(".civitai.info").write_text(json.dumps(hashes))
    assert known_sha256(path, None) == truth
    path.with_suffix(".civitai.info").unlink()
    note = path.with_name(f"{path.name}.sha256")
    note.write_text(f"{truth}  {path.name}\n")
    assert known_sha256(path, None) == truth
    os.utime(note, (1, 1))
    assert known_sha256(path, None) is None


def test_hashes_and_headers_are_kept_for_a_state_of_the_file(folder: Path) -> None:
    path = folder / OTHER
    while not (state := state_at(path)) or not state.settled:
        time.sleep(0.1)  # a file that was just written is not kept
    cache = subspace_cache()
    assert cache is not None
    assert known_sha256(path, cache) is None
    assert compute_sha256(path, cache) == known_sha256(path, subspace_cache()) == sha256(path)
    fits = find_fitting_bases(lora(), [OTHER], lambda name: folder / name, cache)
    assert fits.fitting == {OTHER: "Flux"}
    os.utime(path)
    assert known_sha256(path, cache) is None


def test_a_file_too_short_for_the_legacy_hash_has_none(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"short")
    assert legacy_hash(tmp_path / "short") is None


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("sd_xl_base_1.0_0.9vae.safetensors", "stabilityai/stable-diffusion-xl-base-1.0", True),
        ("v1-5-pruned-emaonly-fp16.safetensors", "runwayml/stable-diffusion-v1-5", True),
        ("flux1-dev-fp8.safetensors", "black-forest-labs/FLUX.1-dev", True),
        ("flux1-schnell.safetensors", "black-forest-labs/FLUX.1-dev", False),
        ("realisticVision_v51.safetensors", "realisticVision_v60.safetensors", False),
        ("sd_xl_base_1.0.safetensors", "sd_xl_base_1.0.bak", False),
    ],
)
def test_names_of_one_model_are_the_same_in_any_precision_and_on_the_hub(first: str, second: str, same: bool) -> None:
    assert (ModelName.of(first).core == ModelName.of(second).core) == same
