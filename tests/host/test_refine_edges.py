"""Refine on models and adapters that other parts of ComfyUI, or other packs, have changed."""

from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import comfy.model_management
import pytest
import torch
from torch import Tensor

from lora_transfer.core.errors import NothingToTransfer, NotMeasurable
from lora_transfer.core.refine.parameterisation import require_gradients
from lora_transfer.core.vectors import Vector
from lora_transfer.nodes.host.adapter.adapter import adapter_from_state_dict
from lora_transfer.nodes.host.base.from_model import base_from_model
from lora_transfer.nodes.host.refine.inputs import convert_pictures
from lora_transfer.nodes.host.refine.teacher import TeacherSet, TeacherSettings
from lora_transfer.nodes.host.sampling.conditioning import split_conditioning
from lora_transfer.nodes.host.sampling.noise import choose_step_levels
from lora_transfer.nodes.host.training.start import start_from_adapter
from lora_transfer.nodes.host.training.student import HostStudent, StudentInputs, run_in_host
from tests.host.conftest import SmallPair
from tests.host.small_check import Models, loaded, text
from tests.host.small_refine import demo_model


@pytest.fixture(scope="module")
def models(pair: SmallPair) -> Models:
    return loaded(pair)


def test_attention_without_gradients_gives_way_to_one_with(models: Models) -> None:
    """Sage attention, by a flag of ComfyUI or by another pack's patch, gives back tensors without a gradient."""

    def attention_sage(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
        return (q + k.mean(1, keepdim=True) + v.mean(1, keepdim=True)).detach()

    patched = models.target.clone()
    options = patched.model_options["transformer_options"]
    options["optimized_attention_override"] = lambda _, *args, **kwargs: attention_sage(*args, **kwargs)
    start = start_from_adapter(models.lora, base_from_model(models.target), models.target, 0)
    keys = {name: delta for name, delta in start.trainable().items() if name.endswith("attn1.to_k")}
    trainable = require_gradients(keys, torch.device("cpu"))

    def task(student: HostStudent) -> None:
        student.predict(torch.arange(2)).square().mean().backward()

    run_in_host(patched, make_inputs(), split_conditioning(text(768)), trainable, 2, task)
    assert keys
    assert all(bool(delta.parameters[0].grad.any()) for delta in trainable.values())
    assert "optimized_attention_override" in patched.model_options["transformer_options"]


def test_a_turbo_targets_levels_are_within_what_the_source_knows(models: Models) -> None:
    """All noise is level 1 to a flow model; to a diffusion model that would be an infinite one."""
    levels = choose_step_levels(4, models.source, demo_model("target"))
    assert bool(levels.isfinite().all())
    assert float(levels[0]) == pytest.approx(14.61, abs=0.01)
    assert len(levels) == 4
    assert bool((levels.diff() < 0).all())


def test_weights_come_to_the_card_on_the_stream_that_computes(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two streams that share buffers, ComfyUI's default on a card, hand the backward pass another layer's weights."""
    cpu = torch.device("cpu")
    monkeypatch.setattr(comfy.model_management, "NUM_STREAMS", 2)
    monkeypatch.setattr(comfy.model_management, "STREAMS", {cpu: [Mock(), Mock()]})
    found: list[Any] = []

    def task(student: HostStudent) -> None:
        found.append(comfy.model_management.get_offload_stream(cpu))
        raise KeyError("an error within")

    with pytest.raises(KeyError):
        run_in_host(models.target, make_inputs(), split_conditioning(text(768)), {}, 2, task)
    assert found == [None]
    assert comfy.model_management.NUM_STREAMS == 2
    assert not comfy.model_management.in_training


def test_pictures_that_hang_on_a_prompt_can_be_saved_for_a_backward_pass(models: Models) -> None:
    """Edit models have lists of reference latents there; nodes make them in torch's inference mode."""
    with torch.inference_mode():
        [[context, options]] = text(768)
        prompts = split_conditioning([[context + 0, {**options, "reference_latents": [torch.ones(1, 4, 8, 8)]}]])
    found: list[Any] = []

    def task(student: HostStudent) -> None:
        found.append(student.call.conds["positive"][0]["reference_latents"][0].is_inference())

    run_in_host(models.target, make_inputs(), prompts, {}, 2, task)
    assert found == [False]


@pytest.mark.parametrize("steps", [0, 3])
def test_pictures_keep_their_prompts_and_are_noised_at_a_turbo_targets_levels(models: Models, steps: int) -> None:
    target = demo_model("target")
    samples = convert_pictures(a_set(1), (models.source, target), (Camera(), Camera(16)), TeacherSettings(2, 0, steps))
    rows = len(samples.inputs.levels) // 2
    assert samples.inputs.prompts.tolist() == [0] * rows + [1] * rows
    assert len(samples.teacher) == 2 * rows
    own = choose_step_levels(3, target, target).tolist()
    assert (samples.inputs.levels[:rows].tolist() == own) == (steps == 3)


def test_frames_that_would_be_taken_for_pictures_are_refused_in_words(models: Models) -> None:
    with pytest.raises(NotMeasurable, match="found 2 frames"):
        convert_pictures(a_set(2), (models.source, demo_model("target")), (Camera(), Camera(16)), TeacherSettings(2))


def test_biases_of_the_text_encoder_do_not_concern_the_student(models: Models) -> None:
    bias = Vector("clip_l.transformer.text_model.final_layer_norm.bias", "diff", torch.ones(768), ())
    start = start_from_adapter(models.lora, base_from_model(models.target), models.target, 0)
    with_bias = replace(start, untrained=replace(start.untrained, vectors=(bias,)))
    assert with_bias.add_untrained(models.target) is models.target


def test_a_lora_that_was_transferred_to_another_target_is_refused_in_words(models: Models) -> None:
    """The same names, but other widths."""
    base = base_from_model(models.target)
    narrow = {
        name: replace(layer, weight=replace(layer.weight, shape=(layer.weight.shape[0] // 2, *layer.weight.shape[1:])))
        for name, layer in base.layers.items()
    }
    layer = next(name for name in narrow if name.endswith("attn1.to_k"))
    rows, columns = narrow[layer].weight.matrix_shape
    tensors = {f"diffusion_model.{layer}.lora_up.weight": torch.ones(rows, 2)}
    tensors[f"diffusion_model.{layer}.lora_down.weight"] = torch.ones(2, columns)
    other = replace(adapter_from_state_dict(tensors, "other"), fits=replace(base, layers=narrow))
    with pytest.raises(NothingToTransfer, match="the target's layer has another shape"):
        start_from_adapter(other, base, models.target, 0)


def test_layers_without_a_low_rank_form_are_cut_and_reported_in_one_note(models: Models) -> None:
    held = models.lora.state_dict()
    downs = [key for key in held if key.endswith("lora_down.weight")][:3]
    full: dict[str, Tensor] = {}
    for down in downs:
        up = held[down.replace("lora_down", "lora_up")]
        whole = torch.randn(up.shape[0], *held[down].shape[1:], generator=torch.Generator().manual_seed(0))
        full[down.replace("lora_down.weight", "diff")] = whole
    start = start_from_adapter(adapter_from_state_dict(full, "full"), base_from_model(models.target), models.target, 0)
    assert max(delta.rank for delta in start.deltas.values()) <= 64
    [note] = start.notes
    assert note.startswith("full: 3 layers without a low-rank form are cut to rank 64; the worst loses ")


class Camera:
    """A VAE that decodes to videos and encodes pictures."""

    def __init__(self, channels: int = 4) -> None:
        self.channels = channels

    def decode(self, latent: Tensor) -> Tensor:
        return latent[:, :3].movedim(1, -1)  # (films, frames, height, width, 3)

    def encode(self, pictures: Tensor) -> Tensor:
        assert pictures.ndim == 4
        return torch.ones(len(pictures), self.channels, *pictures.shape[1:3])


def a_set(frames: int) -> TeacherSet:
    """Two samplings of videos at two levels."""
    noise = torch.randn(2, 2, 4, frames, 8, 8, generator=torch.Generator().manual_seed(0))
    return TeacherSet(noise, noise, torch.tensor([[9.0, 0.4]] * 2), torch.tensor([0, 1]), None)


def make_inputs() -> StudentInputs:
    states = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return StudentInputs(states, torch.tensor([9.0, 0.4]), torch.tensor([0, 0]))
