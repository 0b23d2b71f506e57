"""Refine LoRA on the demo's trained models, in the real host."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import folder_paths
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dev.paths import DEMO_MODELS
from lora_transfer.core.errors import InvalidSetting, NotEnoughMemory, NotMeasurable
from lora_transfer.core.files import write_new
from lora_transfer.core.refine.parameterisation import require_gradients
from lora_transfer.nodes.host.adapter.adapter import Adapter, adapter_from_file
from lora_transfer.nodes.host.adapter.apply import apply
from lora_transfer.nodes.host.adapter.save import cast_for_file
from lora_transfer.nodes.host.base.from_file import base_from_file
from lora_transfer.nodes.host.base.from_model import base_from_model
from lora_transfer.nodes.host.sampling.conditioning import split_conditioning
from lora_transfer.nodes.host.sampling.noise import convert_noise, levels_at
from lora_transfer.nodes.host.training.previews import Previews
from lora_transfer.nodes.host.training.start import start_from_adapter
from lora_transfer.nodes.host.training.student import HostStudent, StudentInputs, run_in_host
from tests.host.conftest import SmallPair
from tests.host.small_check import loaded, text
from tests.host.small_refine import FEW, SHORT, Emoji, demo_prompts, emoji


@pytest.fixture(scope="module", autouse=True)
def as_nodes_run() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", autouse=True)
def user_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user and an output folder of these tests' own."""
    before = folder_paths.get_user_directory(), folder_paths.get_output_directory()
    folder = tmp_path_factory.mktemp("refine")
    folder_paths.set_user_directory(str(folder / "user"))
    folder_paths.set_output_directory(str(folder / "output"))
    yield folder
    folder_paths.set_user_directory(before[0])
    folder_paths.set_output_directory(before[1])


@pytest.fixture(scope="module")
def models() -> Emoji:
    return emoji()


def test_both_matches_raise_the_score_of_a_copy_on_the_pruned_child(models: Emoji) -> None:
    for match in ("outputs", "differences"):
        report = models.refined(replace(SHORT, match=match), target=models.pruned).report
        assert report.best > report.before + 0.1
        assert report.best_step > 0
        assert "score" in report.sentence()


def test_from_zeros_it_starts_at_nothing_and_comes_some_of_the_way(models: Emoji) -> None:
    refined = models.refined(replace(SHORT, rank=4), transferred=None)
    assert refined.report.before == pytest.approx(0, abs=1e-6)
    assert refined.report.best > 0.1
    assert refined.report.start is None
    ranks = {one.shape[0] for key, one in refined.adapter.state_dict().items() if key.endswith("lora_down.weight")}
    assert ranks == {4}


def test_kept_teacher_samples_give_the_same_bit_by_bit_and_ask_the_source_nothing(models: Emoji) -> None:
    teaching = replace(FEW, seed=3)
    first_told, then_told = list[str](), list[str]()
    first, then = (models.refined(teaching=teaching, told=told) for told in (first_told, then_told))
    assert first.report.teacher.seconds > 0
    assert then.report.teacher.from_cache
    assert any("makes teacher samples" in one for one in first_told)
    assert not any("makes teacher samples" in one for one in then_told)
    assert models.source.loaded_size() == 0
    assert first.report.losses == then.report.losses
    assert same(first.adapter.state_dict(), then.adapter.state_dict())


def test_damaged_teacher_samples_are_made_again(models: Emoji, user_folder: Path) -> None:
    teaching = replace(FEW, seed=4)
    kept = user_folder / "user" / "lora_transfer" / "teacher"
    before = set(kept.glob("*")) if kept.is_dir() else set()
    first = models.refined(replace(SHORT, steps=1), teaching)
    [entry] = set(kept.glob("*")) - before
    entry.write_bytes(entry.read_bytes()[:-100])
    again = models.refined(replace(SHORT, steps=1), teaching)
    assert not again.report.teacher.from_cache
    assert again.report.losses == first.report.losses


def test_differences_complete_teacher_samples_that_were_kept_for_outputs(models: Emoji) -> None:
    teaching = replace(FEW, seed=5)
    models.refined(replace(SHORT, steps=0), teaching)
    told: list[str] = []
    models.refined(replace(SHORT, steps=0, match="differences"), teaching, told)
    calls = [one for one in told if "makes teacher samples" in one]
    assert calls[-1].endswith("64 of 64 calls done")  # those of the source alone


def test_what_the_student_computes_is_what_its_saved_adapter_computes(models: Emoji, tmp_path: Path) -> None:
    for start in (models.lora, None):
        refined = models.refined(replace(SHORT, steps=4), transferred=start, target=models.pruned)
        tensors = cast_for_file(refined.adapter.state_dict(), refined.adapter, "float32")
        path = write_new(tmp_path, "refined", tensors, refined.adapter.metadata)
        read = adapter_from_file(path, "refined")
        assert far(answers_of(models.pruned, refined.adapter), answers_applied(models.pruned, read)) < 1e-4


def test_convolutions_compute_the_same_too(pair: SmallPair) -> None:
    small = loaded(pair)
    there = answers_of(small.target, small.lora, text(768))
    assert far(there, answers_applied(small.target, small.lora, text(768))) < 1e-3
    assert far(there, answers_applied(small.target, None, text(768))) > 1e-2


@pytest.mark.parametrize("lighter", [False, True])
def test_gradients_are_those_of_the_loss(models: Emoji, lighter: bool) -> None:
    """Flux's blocks add in place; finite differences do not know of it."""
    start = start_from_adapter(models.lora, base_from_model(models.target), models.target, 0)
    trainable = require_gradients(start.trainable(), torch.device("cpu"))
    inputs = make_inputs()
    found: list[float] = []

    def task(student: HostStudent) -> None:
        student.checkpointing = lighter
        aim = torch.randn(inputs.states.shape, generator=torch.Generator().manual_seed(2))
        error = (student.predict(torch.arange(2)) - aim).square().mean()
        error.backward()
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            ups = {name: delta.parameters[0] for name, delta in trainable.items()}
            ways = {name: torch.randn(up.shape, generator=generator) for name, up in ups.items()}
            found.append(sum(float((ups[name].grad * way).sum()) for name, way in ways.items()))
            losses: list[float] = []
            for sign in (1, -2):
                for name, way in ways.items():
                    ups[name].add_(sign * 1e-3 * way)
                losses.append(float((student.predict(torch.arange(2)).double() - aim).square().mean()))
            found.append((losses[0] - losses[1]) / 2e-3)

    run_in_host(models.target, inputs, split_conditioning(demo_prompts()), trainable, 2, task)
    assert found[0] == pytest.approx(found[1], rel=0.02)


def test_a_unet_whose_blocks_are_computed_again_has_the_same_gradients(pair: SmallPair) -> None:
    small = loaded(pair)
    start = start_from_adapter(small.lora, base_from_model(small.target), small.target, 0)
    found: list[list[Tensor]] = []
    for lighter in (False, True):
        trainable = require_gradients(start.trainable(), torch.device("cpu"))

        def task(student: HostStudent, lighter: bool = lighter) -> None:
            student.checkpointing = lighter
            student.predict(torch.arange(2)).square().mean().backward()

        run_in_host(small.target, make_inputs(4), split_conditioning(text(768)), trainable, 2, task)
        found.append([one.grad for delta in trainable.values() for one in delta.parameters if one.grad is not None])
    assert len(found[0]) == len(found[1]) == 2 * len(start.deltas)
    assert all(torch.allclose(one, other, rtol=1e-3, atol=1e-7) for one, other in zip(*found, strict=True))


def test_an_adapter_that_was_transferred_to_a_base_by_its_file_is_refined_on_the_loaded_model(models: Emoji) -> None:
    path = DEMO_MODELS / "diffusion_models" / "emoji_target.safetensors"
    by_its_file = replace(models.lora, fits=base_from_file(path, "emoji_target"))
    by_file, by_model = (models.refined(replace(SHORT, steps=2), transferred=one) for one in (by_its_file, models.lora))
    assert by_file.report.losses == by_model.report.losses


def test_a_refined_adapter_goes_on_from_where_it_was_and_counts_its_steps(models: Emoji) -> None:
    first = models.refined(target=models.pruned)
    then = models.refined(target=models.pruned, transferred=first.adapter)
    assert then.report.before == pytest.approx(first.report.best, abs=2e-3)
    entry = json.loads(then.adapter.metadata["lora_transfer"])["refined"]
    assert entry["steps"] == first.report.best_step + then.report.best_step == 16
    assert entry["match"] == "outputs"
    assert entry["score"] == pytest.approx(then.report.best, abs=1e-4)


def test_without_steps_the_adapter_goes_through_itself(models: Emoji) -> None:
    refined = models.refined(replace(SHORT, steps=0))
    assert refined.adapter is models.lora
    assert refined.report.sentence().startswith("not improved: ")


def test_a_run_that_only_gets_worse_gives_the_start_back(models: Emoji) -> None:
    refined = models.refined(replace(SHORT, steps=2, rate=1.0))
    assert refined.adapter is models.lora
    assert "the output is the LoRA unchanged" in refined.report.sentence()


def test_where_the_lora_is_part_of_the_target_there_is_nothing_to_refine(models: Emoji) -> None:
    merged = apply(models.lora, models.source, None, 1.0, 0.0).model
    with pytest.raises(NotMeasurable, match="There is nothing to refine"):
        models.refined(target=merged)


def test_a_turbo_target_is_trained_at_its_own_levels_only(models: Emoji) -> None:
    refined = models.refined(replace(SHORT, steps=0), replace(FEW, target_steps=2))
    assert refined.report.teacher.rows == 2 * 8


def test_prompts_of_several_forms_are_learnt_together(models: Emoji) -> None:
    [[context, options]] = demo_prompts()
    short = [context[:1, :5], {"pooled_output": options["pooled_output"][:1]}]
    refined = models.refined(conditioning=[[context[:2], {"pooled_output": options["pooled_output"][:2]}], short])
    assert refined.report.best > refined.report.before


def test_a_prompt_for_a_part_of_the_picture_is_refused_in_words(models: Emoji) -> None:
    [[context, options]] = demo_prompts()
    with pytest.raises(NotMeasurable, match="found a prompt with area"):
        models.refined(conditioning=[[context, {**options, "area": (8, 8, 0, 0)}]])
    with pytest.raises(NotMeasurable, match="the same prompts for both models, found 4 prompts and 1"):
        models.refined(target_conditioning=demo_prompts(["ghost"]))


def test_prompts_that_the_target_cannot_read_are_refused_in_words(models: Emoji, pair: SmallPair) -> None:
    small = loaded(pair)
    vaes = [comfy.sd.load_checkpoint_guess_config(str(pair.source), output_clip=False)[2]]
    vaes.append(comfy.sd.VAE(sd=load_file(DEMO_MODELS / "vae" / "emoji_vae.safetensors")))
    inputs = {"source": small.source, "adapter": small.lora, "source_vae": vaes[0], "target_vae": vaes[1]}
    with pytest.raises(NotMeasurable, match=r"connect the same prompts, .* as target_conditioning"):
        models.refined(teaching=replace(FEW, samples=2), conditioning=text(768), **inputs)


def test_prompts_that_are_not_painted_are_reported(models: Emoji) -> None:
    refined = models.refined(replace(SHORT, steps=0), replace(FEW, samples=3))
    assert any("the last 1 of 4 prompts" in one for one in refined.report.notes)


def test_where_memory_runs_out_the_run_takes_less_and_says_so(models: Emoji, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = models.refined(replace(SHORT, steps=2))
    full_at(monkeypatch, 3)
    refined = models.refined(replace(SHORT, steps=2))
    assert refined.report.notes == (
        "memory ran out: activations are computed again in the backward pass (slower)",
        "memory ran out: 4 latents at once, their gradients are added",
        "memory ran out: 2 latents at once, their gradients are added",
    )
    assert refined.report.losses == pytest.approx(plain.report.losses, rel=1e-3)


def test_where_nothing_fits_any_more_the_best_is_saved_and_the_sentence_says_so(
    models: Emoji, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_at(monkeypatch, 0, after=6)
    with pytest.raises(NotEnoughMemory, match=r"the best so far \(step 4, .*refine_interrupted.*\.safetensors"):
        models.refined(target=models.pruned)
    with pytest.raises(NotEnoughMemory, match="at step 1 of 8"):
        models.refined(target=models.pruned)


def test_where_the_model_does_not_fit_its_weights_stay_in_main_memory_and_the_run_goes_on(
    models: Emoji, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_at(monkeypatch, 0, after=6, but_for=lambda student: bool(first) and student.processed is not first[0])
    first: list[Any] = []
    whole = HostStudent.use_less_memory

    def use_less_memory(self: HostStudent, error: RuntimeError) -> bool:
        first.append(self.processed)
        return whole(self, error)

    monkeypatch.setattr(HostStudent, "use_less_memory", use_less_memory)
    report = models.refined(target=models.pruned).report
    assert any("the target's weights stay in main memory" in one for one in report.notes)
    assert len(report.losses) == 8
    assert set(report.scores) >= {0, 4, 8}
    assert report.best_step == 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn])
def test_a_target_in_half_precision_and_in_fp8_is_refined_too(models: Emoji, dtype: torch.dtype) -> None:
    path = DEMO_MODELS / "diffusion_models" / "emoji_pruned.safetensors"
    target = comfy.sd.load_diffusion_model(str(path), {"dtype": dtype})
    report = models.refined(target=target).report
    assert report.best > report.before + 0.1


def test_a_cancelled_run_saves_its_best_and_says_where(models: Emoji) -> None:
    told: list[str] = []

    class Cancelling(list[str]):
        def append(self, one: str) -> None:
            told.append(one)
            if one.startswith("step 5"):
                comfy.model_management.interrupt_current_processing()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        models.refined(told=Cancelling(), target=models.pruned)
    assert told[-1].startswith("cancelled at step 6 of 8; the best so far (step 4, score ")
    name = next(word for word in told[-1].split() if word.endswith(".safetensors"))
    path = Path(folder_paths.get_output_directory()) / "loras" / name
    kept = adapter_from_file(path, name)
    assert json.loads(kept.metadata["lora_transfer"])["refined"]["steps"] == 4
    assert models.refined(replace(SHORT, steps=1), transferred=kept, target=models.pruned).report.before > 0.5


def test_a_run_that_is_cancelled_while_its_pictures_are_decoded_is_saved_too(
    models: Emoji, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancelled(_: Previews) -> None:
        raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(Previews, "pictures", cancelled)
    told: list[str] = []
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        models.refined(told=told, target=models.pruned)
    assert told[-1].startswith("cancelled after all steps; the best so far (step 8, score ")


def test_a_loss_that_is_no_number_goes_back_to_the_best_and_is_reported(
    models: Emoji, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = HostStudent.predict, list[int]()

    def broken(self: HostStudent, picks: Tensor) -> Tensor:
        calls.extend([1] * torch.is_grad_enabled())
        return whole(self, picks) * (float("nan") if torch.is_grad_enabled() and len(calls) == 3 else 1)

    monkeypatch.setattr(HostStudent, "predict", broken)
    report = models.refined(target=models.pruned).report
    assert any("the loss was not a number" in one for one in report.notes)
    assert None in report.losses
    assert report.best > report.before
    json.loads(report.dumps())


def test_models_of_other_latents_say_which_vaes_they_want_and_refuse_differences(
    models: Emoji, pair: SmallPair
) -> None:
    small = loaded(pair)
    with pytest.raises(NotMeasurable, match="Connect the VAE of each as source_vae and target_vae"):
        models.refined(target=small.target)
    with pytest.raises(InvalidSetting, match="choose match outputs"):
        models.refined(replace(SHORT, match="differences"), target=small.target)


def test_between_other_latents_pictures_are_converted_by_the_vaes(models: Emoji, pair: SmallPair) -> None:
    small = loaded(pair)
    with_vae = comfy.sd.load_checkpoint_guess_config(str(pair.source), output_clip=False)[2]
    demo_vae = comfy.sd.VAE(sd=load_file(DEMO_MODELS / "vae" / "emoji_vae.safetensors"))
    refined = models.refined(
        replace(SHORT, steps=4),
        replace(FEW, samples=2),
        source=small.source,
        adapter=small.lora,
        conditioning=text(768),
        target_conditioning=demo_prompts(["ghost"]),
        source_vae=with_vae,
        target_vae=demo_vae,
    )
    assert refined.report.teacher.pictures == 2
    assert refined.report.best >= refined.report.before
    assert len(refined.report.losses) == 4


def test_a_vae_of_another_model_costs_the_pictures_and_not_the_run(models: Emoji, pair: SmallPair) -> None:
    other = comfy.sd.load_checkpoint_guess_config(str(pair.source), output_clip=False)[2]
    refined = models.refined(replace(SHORT, steps=1), target_vae=other)
    assert refined.pictures is not None
    assert any("the VAE cannot decode" in one for one in refined.report.notes)


def test_a_noised_latent_is_the_same_to_a_diffusion_and_to_a_flow_model(models: Emoji, pair: SmallPair) -> None:
    diffusion, flow = loaded(pair).source, models.source
    latent, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([9.0, 1.0, 0.1])
    seen = diffusion.get_model_object("model_sampling").noise_scaling(sigma, noise, latent)
    between = convert_noise(diffusion, flow)
    levels = between.levels(sigma)
    wanted = flow.get_model_object("model_sampling").noise_scaling(levels, noise, latent)
    assert torch.allclose(between.states(seen, sigma), wanted, atol=1e-6)
    assert torch.allclose(between.back().states(wanted, levels), seen, atol=1e-5)
    assert torch.allclose(between.back().levels(levels), sigma, rtol=1e-5)
    on_both = levels_at([1.0, 0.5, 0.0], flow, diffusion)
    assert float(on_both[0]) == pytest.approx(14.61 / 15.61, abs=1e-3)  # all noise to the diffusion model
    assert bool((on_both.diff() < 0).all())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def far(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def make_inputs(channels: int = 16) -> StudentInputs:
    """Two noised latents between all noise and none."""
    states = torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(1))
    return StudentInputs(states, torch.tensor([0.9, 0.4]), torch.tensor([0, 0]))


def answers_of(model: Any, adapter: Adapter, conditioning: Any = None) -> Tensor:
    """What a student answers with the adapter's factors beside its layers."""
    start = start_from_adapter(adapter, base_from_model(model), model, 0)
    return _answers(start.add_untrained(model), require_gradients(start.trainable(), torch.device("cpu")), conditioning)


def answers_applied(model: Any, adapter: Adapter | None, conditioning: Any = None) -> Tensor:
    """What the model answers with the adapter in its weights."""
    return _answers(model if adapter is None else apply(adapter, model, None, 1.0, 0.0).model, {}, conditioning)


def _answers(model: Any, trainable: Any, conditioning: Any) -> Tensor:
    found: list[Tensor] = []
    inputs = make_inputs(model.get_model_object("latent_format").latent_channels)

    def task(student: HostStudent) -> None:
        with torch.no_grad():
            found.append(student.predict(torch.arange(2)))

    run_in_host(model, inputs, split_conditioning(conditioning or demo_prompts()), trainable, 2, task)
    return found[0]


def full_at(
    monkeypatch: pytest.MonkeyPatch, rows: int, after: int = 0, but_for: Callable[[HostStudent], bool] = lambda _: False
) -> None:
    """A card on which no more latents than that fit in a step, and none at all without checkpointing."""
    whole, calls = HostStudent.denoised, list[int]()

    def denoised(self: HostStudent, states: Tensor, levels: Tensor, prompts: Any) -> Tensor:
        calls.extend([1] * torch.is_grad_enabled())
        if (
            torch.is_grad_enabled()
            and len(calls) > after
            and not but_for(self)
            and (len(states) > rows or not self.checkpointing)
        ):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, states, levels, prompts)

    monkeypatch.setattr(HostStudent, "denoised", denoised)
