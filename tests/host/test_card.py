"""What only a card meets, with the processor standing in for one: memory that runs out in a library beside torch, and
a card that is full until a training ends."""

from dataclasses import replace
from typing import Any

import comfy.sd
import pytest
import torch
from torch import Tensor

from lora_transfer.core.errors import NotEnoughMemory
from lora_transfer.nodes.host.card import is_out_of_memory
from lora_transfer.nodes.host.sampling import outputs as host_outputs
from lora_transfer.nodes.host.training.previews import Previews
from lora_transfer.nodes.host.training.student import HostStudent, run_with_room
from tests.core.test_resources import FULL
from tests.host.conftest import SmallPair
from tests.host.small_check import SMALL, loaded, pooled
from tests.host.small_refine import SHORT, emoji

ERRORS = [torch.OutOfMemoryError("CUDA out of memory"), *(RuntimeError(words) for words in FULL)]


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_a_library_that_finds_no_memory_is_recognised_by_its_words(error: RuntimeError) -> None:
    assert is_out_of_memory(error)


def test_other_errors_of_a_card_are_not_taken_for_a_full_one() -> None:
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_a_check_goes_one_latent_at_a_time_whoever_finds_no_memory(
    pair: SmallPair, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    models, one_pass = loaded(pair), host_outputs._pass
    whole = models.check(models.lora)

    def small_card(model: Any, conditioning: Any, start: Any, *others: Any) -> Any:
        if len(start.noise) > 1:
            raise error
        return one_pass(model, conditioning, start, *others)

    monkeypatch.setattr(host_outputs, "_pass", small_card)
    assert pooled(models.check(models.lora)).change_match == pytest.approx(pooled(whole).change_match, abs=1e-4)


@pytest.mark.parametrize("noises", [1, 2])
def test_a_check_that_has_no_room_for_one_latent_says_so_in_a_sentence(
    pair: SmallPair, monkeypatch: pytest.MonkeyPatch, noises: int
) -> None:
    models = loaded(pair)

    def full_card(*_: Any) -> Any:
        raise ERRORS[0]

    monkeypatch.setattr(host_outputs, "_pass", full_card)
    with pytest.raises(NotEnoughMemory, match="no room for one latent"):
        models.check(models.lora, replace(SMALL, seeds=noises))


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_a_step_of_refine_takes_less_whoever_finds_no_memory(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    whole = HostStudent.denoised

    def small_card(self: HostStudent, states: Tensor, *others: Any) -> Tensor:
        if torch.is_grad_enabled() and not self.checkpointing:
            raise error
        return whole(self, states, *others)

    monkeypatch.setattr(HostStudent, "denoised", small_card)
    refined = emoji().refined(replace(SHORT, steps=1))
    assert any("memory ran out" in note for note in refined.report.notes)


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_weights_go_to_main_memory_whoever_finds_no_memory(error: RuntimeError) -> None:
    tried: list[bool] = []

    def attempt(offloading: bool) -> None:
        tried.append(offloading)
        if not offloading:
            raise error

    assert run_with_room(attempt)
    assert tried == [False, True]


def test_a_vae_that_fails_at_the_end_for_the_first_time_costs_the_pictures_and_not_the_run(
    pair: SmallPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Previews, "_decoder_fits", lambda self, latent: False
    )  # the card is full while the model trains
    other = comfy.sd.load_checkpoint_guess_config(str(pair.source), output_clip=False)[2]
    refined = emoji().refined(replace(SHORT, steps=2, checks=2), target_vae=other)
    assert refined.pictures is not None
    assert len(refined.pictures) == 3
    assert any("the VAE cannot decode" in one for one in refined.report.notes)


def test_a_vae_without_room_is_not_said_to_be_of_another_model(
    pair: SmallPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, samples: Tensor, *_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(comfy.sd.VAE, "decode", full)
    other = comfy.sd.load_checkpoint_guess_config(str(pair.source), output_clip=False)[2]
    refined = emoji().refined(replace(SHORT, steps=1, checks=1), target_vae=other)
    assert refined.pictures is not None
    assert any("no memory for the VAE" in one for one in refined.report.notes)
