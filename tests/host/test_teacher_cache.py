"""Kept teacher samples are never mistaken for those of another run."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from comfy_extras.nodes_model_merging import ModelMergeSimple
from safetensors.torch import load_file, save_file

from lora_transfer.core.tensor_store import TensorStore
from lora_transfer.nodes.host.adapter.apply import apply
from lora_transfer.nodes.host.base.from_model import base_from_model
from lora_transfer.nodes.host.refine.teacher_cache import TeacherCache, describe_changes
from lora_transfer.nodes.host.sampling.conditioning import hash_prompts, split_conditioning
from tests.host.conftest import SmallPair
from tests.host.small_check import Models, loaded, strengthened, text
from tests.host.small_refine import FEW, SHORT, Emoji, demo_prompts, emoji


@pytest.fixture(scope="module")
def models(pair: SmallPair) -> Models:
    return loaded(pair)


def test_merges_with_other_models_and_other_loras_are_told_apart(models: Models) -> None:
    with torch.inference_mode():
        merges = [ModelMergeSimple().merge(models.target, other, 0.5)[0] for other in (models.source, models.target)]
        loras = [apply(one, models.source, None, 1.0, 0.0).model for one in (models.lora, strengthened(models.lora, 2))]
        told = [describe_changes(one) for one in (*merges, *loras, models.source)]
        again = ModelMergeSimple().merge(models.target, models.source, 0.5)[0]
        assert describe_changes(again) == told[0]
    assert all(one not in told[:place] for place, one in enumerate(told))


def test_a_model_of_velocity_is_told_apart_from_a_model_of_noise_at_the_same_levels(models: Models) -> None:
    kinds = [ModelSamplingDiscrete().patch(models.source, kind, False)[0] for kind in ("eps", "v_prediction")]
    first, second = (describe_changes(one) for one in kinds)
    assert first is not None
    assert first != second


def test_a_model_whose_changes_cannot_be_compared_keeps_no_teacher_samples(models: Models) -> None:
    changed: list[Any] = [models.source.clone() for _ in range(4)]
    changed[0].set_model_attn1_patch(lambda q, k, v, _: (q, k, v))
    changed[1].add_wrapper("apply_model", lambda executor, *args, **kwargs: executor(*args, **kwargs))
    changed[2].add_object_patch("diffusion_model.time_embed", torch.nn.Identity())
    changed[3].add_callback("on_pre_run", lambda *_: None)
    assert [describe_changes(one) for one in changed] == [None] * 4


def test_models_whose_noise_has_other_times_are_told_apart(models: Models) -> None:
    """The same levels, but the model is called with another time."""
    other = models.source.clone()
    sampling = type(models.source.get_model_object("model_sampling"))(models.source.model.model_config)
    sampling.sigma_data = 0.5
    other.add_object_patch("model_sampling", sampling)
    assert describe_changes(other) != describe_changes(models.source)


def test_prompts_with_other_content_have_other_digests_whatever_they_hold() -> None:
    [[context, options]] = text(768)
    held: list[Any] = [[1, 23], [12, 3], [[1], 23], [1, "23"], {"1": 23}, "1", 1, 1.0, True, None, b"1", [], {}, [{}]]
    held += [torch.zeros(2), torch.zeros(2, 1), torch.zeros(2, dtype=torch.float16), [torch.zeros(2)], torch.float16]
    digests = {hash_prompts(split_conditioning([[context, {**options, "extra": value}]])) for value in held}
    assert len(digests) == len(held)


@pytest.fixture
def user_folder(tmp_path: Path) -> Iterator[Path]:
    before = folder_paths.get_user_directory()
    folder_paths.set_user_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_user_directory(before)


@pytest.fixture(scope="module")
def small() -> Emoji:
    with torch.inference_mode():
        return emoji()


def refined(small: Emoji, **other: Any) -> Any:
    """The report of a run on two samplings and without steps: it only samples the teacher."""
    inputs = {"conditioning": demo_prompts(["ghost"]), **other}
    with torch.inference_mode():
        return small.refined(replace(SHORT, steps=0), replace(FEW, samples=2), **inputs).report


def altered(model_file: Path, folder: Path, key: str) -> Any:
    """The model with one weight that differs a little."""
    tensors = load_file(model_file)
    tensors[key].view(-1)[0] += 0.25
    path = folder / "altered.safetensors"
    save_file(tensors, path)
    with torch.inference_mode():
        return comfy.sd.load_diffusion_model(str(path))


def test_a_source_that_differs_in_any_one_weight_is_asked_itself(small: Emoji, tmp_path: Path) -> None:
    path = Path(small.source.cached_patcher_init[1][0])
    keys = sorted(load_file(path))
    picked = torch.randperm(len(keys), generator=torch.Generator().manual_seed(0))[:8].tolist()
    others = [altered(path, tmp_path, keys[index]) for index in picked]
    fingerprints = [base_from_model(model).fingerprint for model in (small.source, *others)]
    assert len(set(fingerprints)) == len(fingerprints)


def test_only_the_same_source_lora_prompts_and_seed_use_a_kept_set(
    small: Emoji, user_folder: Path, tmp_path: Path
) -> None:
    path = Path(small.source.cached_patcher_init[1][0])
    other = altered(path, tmp_path, sorted(load_file(path))[5])
    lora = replace(small.lora, path=None, tensors=strengthened(small.lora, 2).tensors)  # the same name and fingerprint
    prompts = demo_prompts(["ghost"])
    prompts[0][0] = prompts[0][0].clone().index_fill_(1, torch.tensor([1]), 0.1)
    assert not refined(small).teacher.from_cache
    assert refined(small).teacher.from_cache
    assert refined(small, source=small.source.clone()).teacher.from_cache
    for inputs in ({"source": other}, {"adapter": lora}, {"conditioning": prompts}):
        assert not refined(small, **inputs).teacher.from_cache


def test_a_damaged_set_is_never_used(tmp_path: Path) -> None:
    """A byte is changed at four hundred places, header and values alike."""
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(2, 8, 4, 4, generator=generator).half() for name in ("states", "noise")}
    tensors |= {"levels": torch.rand(2, 8, generator=generator), "prompts": torch.tensor([0, 1])}
    cache = TeacherCache(TensorStore(tmp_path, 10**9))
    cache.write("a", tensors)
    [path] = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    for place in torch.randint(len(whole), (400,), generator=generator).tolist():
        flipped = bytes([whole[place] ^ int(torch.randint(1, 256, (1,), generator=generator))])
        path.write_bytes(whole[:place] + flipped + whole[place + 1 :])
        read = TeacherCache(TensorStore(tmp_path, 10**9)).read("a")
        assert read is None or all(torch.equal(read[name], one) for name, one in tensors.items())
    path.write_bytes(whole)
    assert cache.read("a") is not None


def test_a_damaged_set_is_made_again_in_a_run(small: Emoji, user_folder: Path) -> None:
    refined(small)
    [path] = (user_folder / "lora_transfer" / "teacher").glob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-50] + bytes([whole[-50] ^ 1]) + whole[-49:])
    assert not refined(small).teacher.from_cache
    assert refined(small).teacher.from_cache


@pytest.mark.parametrize("broken", ["a file in its place", "a folder that nothing can be removed from"])
def test_a_folder_that_cannot_be_used_is_done_without_and_the_log_says_so_once(
    small: Emoji, user_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    place = user_folder / "lora_transfer"
    if broken.startswith("a file"):
        place.write_text("no folder")
    else:
        refined(small)
        for path in (place / "teacher").iterdir():
            path.write_bytes(b"damaged")

        def refuse(*_: Any, **__: Any) -> None:
            raise PermissionError(13, "Read-only file system")

        for name in ("unlink", "mkdir"):
            monkeypatch.setattr(Path, name, refuse)
        monkeypatch.setattr("os.utime", refuse)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert not refined(small).teacher.from_cache
    assert sum("teacher samples" in record.getMessage() for record in caplog.records) == 1
