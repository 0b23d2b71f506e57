"""Train LoRA-X on the demo's trained models, in the real host."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import pytest
import torch
from torch import Tensor

from lora_transfer.core.cache import SubspaceCache
from lora_transfer.core.errors import InvalidSetting, NotMeasurable
from lora_transfer.core.refine.loop import RefineSettings
from lora_transfer.core.reports.train import TrainReport
from lora_transfer.core.resources import Resources
from lora_transfer.nodes.host.adapter.adapter import Adapter, adapter_from_file
from lora_transfer.nodes.host.adapter.lora_x import find_lora_x
from lora_transfer.nodes.host.adapter.metadata import refined_metadata
from lora_transfer.nodes.host.base.from_model import base_from_model
from lora_transfer.nodes.host.lora_x.dataset import read_dataset
from lora_transfer.nodes.host.lora_x.run import DEFAULTS, TrainInputs, train_adapter
from lora_transfer.nodes.host.lora_x.start import LoraXSettings
from lora_transfer.nodes.host.training.student import HostStudent
from lora_transfer.nodes.host.training.train import TrainingResult
from tests.host.emoji_pictures import line_drawings
from tests.host.small_check import text
from tests.host.small_refine import demo_model, demo_prompts

SHORT = replace(DEFAULTS, steps=6, checks=2, rank=4)
USING = Resources()


@pytest.fixture(scope="module", autouse=True)
def as_nodes_run() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every layer is decomposed once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "USING", Resources(cache=SubspaceCache(tmp_path_factory.mktemp("cache"))))
        yield


@pytest.fixture(scope="module")
def model() -> Any:
    return demo_model("source")


@pytest.fixture
def output_folder(tmp_path: Path) -> Iterator[Path]:
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_output_directory(before)


def train(
    model: Any,
    lora_x: LoraXSettings = LoraXSettings(),  # noqa: B008
    settings: RefineSettings = SHORT,
    told: list[str] | None = None,
    **other: Any,
) -> TrainingResult[TrainReport]:
    latents, captions = line_drawings(2)
    inputs = {"latents": latents, "captions": captions, **other}
    say = (lambda sentence: None) if told is None else told.append
    return train_adapter(TrainInputs(model, **inputs), settings, lora_x, USING, say)


def shapes(adapter: Adapter) -> set[int]:
    """The ranks of the adapter's modules; slices of a fused weight are joined, so that their ranks add up."""
    return {len(tensor) for key, tensor in adapter.state_dict().items() if key.endswith("lora_down.weight")}


@pytest.mark.parametrize("name", ["plain", "inside", "diagonal"])
def test_every_parameterisation_lowers_the_loss_and_says_so_in_the_file(model: Any, name: Any) -> None:
    trained = train(model, LoraXSettings(name))
    report = trained.report
    assert report.before == pytest.approx(0, abs=1e-6)
    assert report.best > 0.01
    assert "on the same pictures with other noise" in report.sentence()
    entry = json.loads(trained.adapter.metadata["lora_transfer"])["trained"]
    assert (entry["parameterisation"], entry["steps"]) == (name, report.best_step)
    assert min(shapes(trained.adapter)) == (min(entry["directions"].values()) if name == "diagonal" else 4)
    found = find_lora_x(trained.adapter, base_from_model(model))
    assert (found is None) == (name == "plain")
    assert found is None or (found.parameterisation, found.rule.amount, found.doubt) == (name, 0.5, None)


def test_the_same_seed_trains_the_same_lora_and_another_seed_another(model: Any) -> None:
    first, again, other = (train(model, settings=replace(SHORT, steps=2, seed=seed)).report for seed in (1, 1, 2))
    assert first.losses == again.losses
    assert first.losses != other.losses


def test_a_lora_goes_on_from_where_it_was_and_counts_its_steps(model: Any) -> None:
    first = train(model)
    then = train(model, transferred=first.adapter)
    assert then.report.before == pytest.approx(first.report.best, abs=1e-4)
    assert then.report.start is not None
    entry = json.loads(then.adapter.metadata["lora_transfer"])["trained"]
    assert entry["steps"] == first.report.best_step + then.report.best_step


def test_what_does_not_fit_into_the_directions_is_left_out_with_a_note(model: Any) -> None:
    plain = train(model, LoraXSettings("plain")).adapter
    narrow = train(model, LoraXSettings("inside", 0.1), replace(SHORT, steps=0), transferred=plain)
    assert any("of the LoRA to start from" in note and "is left out" in note for note in narrow.report.notes)


def test_pictures_of_several_sizes_are_trained_together(model: Any) -> None:
    latents, captions = line_drawings(4)
    wide = [{"samples": torch.cat([entry["samples"]] * 2, -1)} for entry in latents[:2]]
    trained = train(model, latents=[*latents[2:], *wide], captions=captions)
    assert trained.report.best > 0.01
    together = [{"samples": torch.cat([entry["samples"] for entry in part])} for part in (latents[2:], wide)]
    buckets = [[entry for caption in part for entry in caption] for part in (captions[:2], captions[2:])]
    assert train(model, latents=together, captions=buckets).report.losses == trained.report.losses


def test_where_sizes_differ_each_caption_says_the_size_of_its_picture(model: Any) -> None:
    latents, captions = line_drawings(2)
    tall = {"samples": torch.cat([latents[1]["samples"]] * 2, -2)}
    same, different = (read_dataset(model, [latents[0], other], captions, None) for other in (latents[1], tall))
    assert all("height" not in prompt.options for prompt in same.prompts)
    assert [(prompt.options["width"], prompt.options["height"]) for prompt in different.prompts] == [
        (64, 64),
        (64, 128),
    ]


def test_one_caption_is_enough_for_all_pictures_and_the_empty_prompt_replaces_some(model: Any) -> None:
    latents, captions = line_drawings(3)
    dataset = read_dataset(model, latents, captions[:1], demo_prompts(["ghost"]))
    assert dataset.captions == [0, 0, 0]
    assert dataset.without_caption == [1, 1, 1]
    assert train(model, latents=latents, captions=captions[:1], empty_prompt=captions[1]).report.best > 0


def test_other_numbers_of_captions_and_latents_of_other_models_are_refused_in_words(model: Any) -> None:
    latents, captions = line_drawings(3)
    with pytest.raises(InvalidSetting, match="3 pictures and 2 captions"):
        train(model, latents=latents, captions=captions[:2])
    with pytest.raises(NotMeasurable, match=r"expected 16 channels.*this model's VAE"):
        train(model, latents=[{"samples": torch.zeros(1, 4, 8, 8)}], captions=captions[:1])
    with pytest.raises(NotMeasurable, match="found NaN"):
        train(model, latents=[{"samples": torch.full((1, 16, 8, 8), float("nan"))}], captions=captions[:1])
    with pytest.raises(NotMeasurable, match="this model's own CLIP"):
        train(model, captions=[text(768)])


def test_a_cancelled_training_saves_its_best_which_can_be_trained_further(model: Any, output_folder: Path) -> None:
    told: list[str] = []

    class Cancelling(list[str]):
        def append(self, sentence: str) -> None:
            told.append(sentence)
            if sentence.startswith("step 4"):
                comfy.model_management.interrupt_current_processing()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(model, told=Cancelling())
    assert "the best so far (step 3, score " in told[-1]
    [path] = (output_folder / "loras").glob("training_interrupted*.safetensors")
    kept = adapter_from_file(path, path.name)
    assert find_lora_x(kept, base_from_model(model)) is not None
    assert train(model, settings=replace(SHORT, steps=0), transferred=kept).report.before > 0.005


def test_where_memory_runs_out_the_training_takes_less_and_learns_the_same(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = HostStudent.predict

    def limited(self: HostStudent, picks: Tensor) -> Tensor:
        if len(picks) > 2:
            raise torch.OutOfMemoryError(f"{len(picks)} rows")
        return whole(self, picks)

    plain = train(model, settings=replace(SHORT, steps=2)).report
    monkeypatch.setattr(HostStudent, "predict", limited)
    report = train(model, settings=replace(SHORT, steps=2)).report
    assert any("2 latents at once" in note for note in report.notes)
    assert report.losses == pytest.approx(plain.losses, rel=1e-3)


def test_a_refined_lora_x_is_no_lora_x_any_more_but_its_origin_stays(model: Any) -> None:
    trained, base = train(model, settings=replace(SHORT, steps=1)).adapter, base_from_model(model)
    metadata = refined_metadata(trained.metadata, trained.state_dict(), {"steps": 1}, base)
    assert json.loads(metadata["lora_transfer"])["before"]["trained"]["parameterisation"] == "inside"
    assert find_lora_x(replace(trained, metadata=metadata), base) is None


@pytest.mark.parametrize(
    "change",
    [
        {"parameterisation": "outside"},
        {"parameterisation": ["inside"]},
        {"rank_rule": {"kind": "fraction", "amount": 7}},
        {"rank_rule": {"kind": "fraction", "amount": True}},
        {"rank_rule": None},
        {"base": None},
        {"base": {"name": 3}},
    ],
    ids=str,
)
def test_an_entry_that_cannot_be_read_or_is_of_another_base_counts_as_none(model: Any, change: Any) -> None:
    base = base_from_model(model)
    entry = {
        "parameterisation": "inside",
        "rank_rule": {"kind": "fraction", "amount": 0.5},
        "base": {"name": base.name, "fingerprint": "another"},
    }

    def find(trained: Any) -> Any:
        return find_lora_x(Adapter("a", "b", {"lora_transfer": json.dumps({"trained": trained})}, tensors={}), base)

    found = find(entry)
    assert found is not None
    assert "another file" in found.doubt
    assert find({**entry, **change}) is None
