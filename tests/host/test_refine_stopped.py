"""Whatever ends a refinement, its factors are saved to a file and the user is told where."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import pytest
import torch
from torch import Tensor

import lora_transfer.core.files.tensor_file
from lora_transfer.core.errors import LoraTransferError, NotMeasurable, RefineStopped
from lora_transfer.nodes.host.adapter.adapter import Adapter, adapter_from_file
from lora_transfer.nodes.host.training.previews import Previews
from lora_transfer.nodes.host.training.student import HostStudent
from tests.host.small_refine import FEW, SHORT, Emoji, demo_prompts, emoji

RUN, LEAST = replace(SHORT, steps=4, batch=2, checks=2), replace(FEW, samples=2)


@pytest.fixture(scope="module", autouse=True)
def as_nodes_run() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> Iterator[Path]:
    before = folder_paths.get_user_directory(), folder_paths.get_output_directory()
    folder_paths.set_user_directory(str(tmp_path / "user"))
    folder_paths.set_output_directory(str(tmp_path / "output"))
    yield tmp_path
    folder_paths.set_user_directory(before[0])
    folder_paths.set_output_directory(before[1])


@pytest.fixture(scope="module")
def models() -> Emoji:
    return emoji()


def run(models: Emoji, told: list[str] | None = None, **other: Any) -> Any:
    inputs = {"target": models.pruned, "conditioning": demo_prompts(["ghost"]), **other}
    return models.refined(inputs.pop("settings", RUN), LEAST, told, **inputs)


def saved(folder: Path, text: str) -> Adapter:
    """The file that the sentence names, wherever it lies."""
    [name] = re.findall(r"[^\s]*refine_interrupted[^\s]*\.safetensors", text)
    return adapter_from_file(folder / "output" / "loras" / name, name)  # a name with its folder stays as it is


def steps_of(adapter: Adapter) -> int:
    return json.loads(adapter.metadata["lora_transfer"])["refined"]["steps"]


def raise_at(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> None:
    """Raise in the model's pass of that step."""
    whole, calls = HostStudent.predict, list[int]()

    def predict(self: HostStudent, picks: Tensor) -> Tensor:
        calls.extend([1] * torch.is_grad_enabled())
        if torch.is_grad_enabled() and len(calls) == step:
            raise error
        return whole(self, picks)

    monkeypatch.setattr(HostStudent, "predict", predict)


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (2, KeyError("attn_mask")),
        (2, RuntimeError("CUDA error: device-side assert triggered")),
        (3, KeyError("attn_mask")),
        (3, RuntimeError("CUDA error: unspecified launch failure")),
        (4, MemoryError()),
        (4, NotMeasurable("The model: expected numbers, found none. Load another.")),
        (4, AssertionError()),
    ],
)
def test_an_error_of_any_type_in_any_step_leaves_the_factors_in_a_file(
    models: Emoji, folders: Path, monkeypatch: pytest.MonkeyPatch, step: int, error: Exception
) -> None:
    raise_at(monkeypatch, step, error)
    told: list[str] = []
    with pytest.raises(LoraTransferError, match=f"at step {step} of 4") as caught:
        run(models, told)
    assert type(error).__name__ in str(caught.value) or str(error) in str(caught.value)
    assert told[-1] == str(caught.value)
    assert steps_of(saved(folders, str(caught.value))) == (1 if step == 2 else 2)


def test_a_saved_start_goes_on_where_it_was(models: Emoji, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(models, settings=replace(RUN, steps=2, checks=1)).report
    raise_at(monkeypatch, 4, KeyError("x"))
    with pytest.raises(RefineStopped) as caught:
        run(models)
    again = run(models, transferred=saved(folders, str(caught.value)), settings=replace(RUN, steps=0)).report
    assert again.before > whole.before


def test_an_error_after_the_last_step_loses_nothing(
    models: Emoji, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Previews) -> None:
        raise IndexError("no frame")

    monkeypatch.setattr(Previews, "pictures", broken)
    with pytest.raises(RefineStopped, match="after all steps ended with an error") as caught:
        run(models)
    assert steps_of(saved(folders, str(caught.value))) == 4


def test_what_fails_in_the_node_after_the_run_loses_nothing(models: Emoji, folders: Path) -> None:
    refined = run(models)
    with pytest.raises(RefineStopped) as caught, refined.saving_on_error():
        raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
    assert steps_of(saved(folders, str(caught.value))) == 4


def test_a_vae_that_raises_anything_costs_the_pictures_and_not_the_run(models: Emoji) -> None:
    class Broken:
        device = torch.device("cpu")

        def decode(self, _: Tensor) -> Tensor:
            raise TypeError("decode() takes a list")

    report = run(models, target_vae=Broken()).report
    assert len(report.losses) == 4
    assert any("the VAE cannot decode" in note for note in report.notes)


@pytest.mark.parametrize(
    "written",
    [
        '{"refined": {"steps": "many"}}',
        '{"refined": {"steps": null}}',
        '{"refined": {"steps": [1]}}',
        '{"refined": {"steps": -3}}',
        '{"refined": {"steps": 1e400}}',
        '{"refined": {"steps": true}}',
        '{"refined": {"steps": 1' + 4000 * "0" + "}}",
        '{"refined": 7}',
        "[" * 100_000,
        '{"before": ' * 900 + "1" + "}" * 900,
        "[" * 600 + "]" * 600,
        "",
    ],
)
def test_odd_metadata_loses_no_result(models: Emoji, written: str) -> None:
    odd = replace(models.lora, metadata={**models.lora.metadata, "lora_transfer": written})
    adapter = run(models, transferred=odd).adapter
    assert steps_of(adapter) == 4


def test_metadata_that_cannot_be_made_are_left_out_of_the_file(
    models: Emoji, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> dict[str, str]:
        raise TypeError("unsupported operand")

    monkeypatch.setattr("lora_transfer.nodes.host.refine.run.refined_metadata", broken)
    with pytest.raises(RefineStopped, match="unsupported operand") as caught:
        run(models)
    assert saved(folders, str(caught.value)).state_dict()


def cancel_at(step: int) -> list[str]:
    class Cancelling(list[str]):
        def append(self, one: str) -> None:
            super().append(one)
            if one.startswith(f"step {step} "):
                comfy.model_management.interrupt_current_processing()

    return Cancelling()


@pytest.mark.parametrize("full", ["output", "output and user"])
def test_a_cancel_with_a_full_disk_saves_in_another_folder_and_says_so(
    models: Emoji, folders: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    whole: Callable[..., None] = lora_transfer.core.files.tensor_file.save_file

    def save(tensors: Any, path: Path, *rest: Any) -> None:
        if any(folders / name in path.parents for name in full.split(" and ")):
            raise OSError(28, "No space left on device")
        whole(tensors, path, *rest)

    monkeypatch.setattr(lora_transfer.core.files.tensor_file, "save_file", save)
    monkeypatch.setattr("tempfile.tempdir", str(folders))
    told = cancel_at(3)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(models, told)
    assert "No space left on device" in told[-1]
    assert steps_of(saved(folders, told[-1])) == 2


def test_a_cancel_that_finds_no_room_anywhere_says_so(
    models: Emoji, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    told = cancel_at(3)
    monkeypatch.setattr("lora_transfer.nodes.host.training.save_interrupted.write_new", full)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(models, told)
    assert "not saved, because no folder could be written to" in told[-1]


def test_an_output_folder_that_is_a_file_is_no_reason_to_lose_the_run(models: Emoji, folders: Path) -> None:
    (folders / "output").write_text("no folder")
    told = cancel_at(3)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(models, told)
    assert steps_of(saved(folders, told[-1])) == 2


def test_factors_beyond_float16_are_saved_in_float32(models: Emoji, folders: Path) -> None:
    tensors = models.lora.state_dict()
    layer, up = next((key.removesuffix(".lora_up.weight"), one) for key, one in tensors.items() if "lora_up" in key)
    huge = {**tensors, f"{layer}.diff_b": torch.full(up.shape[:1], 1e6)}
    told = cancel_at(3)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(models, told, transferred=replace(models.lora, path=None, tensors=huge), settings=replace(RUN, rate=0.01))
    assert "in float32, because its values are too large for float16" in told[-1]
    assert saved(folders, told[-1]).state_dict()
