"""Refine on what other parts of ComfyUI and of users' folders do to models and adapters."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lora_transfer.nodes.host.base import base_from_model
from lora_transfer.nodes.host.prompts import prompts_of
from lora_transfer.nodes.host.refinable import refinable
from lora_transfer.nodes.host.student import Desk, HostStudent, in_host, with_gradients
from tests.host.conftest import SmallPair
from tests.host.small_check import Models, loaded, text


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
    start = refinable(models.lora, base_from_model(models.target), models.target, 0)
    keys = {name: pair for name, pair in start.factors().items() if name.endswith("attn1.to_k")}
    factors = with_gradients(keys, torch.device("cpu"))

    def lesson(student: HostStudent) -> None:
        student.answers(torch.arange(2)).square().mean().backward()

    in_host(patched, a_desk(), prompts_of(text(768)), factors, 2, lesson)
    assert keys
    assert all(bool(up.grad.any()) for up, _ in factors.values())
    assert "optimized_attention_override" in patched.model_options["transformer_options"]


def a_desk() -> Desk:
    states = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return Desk(states, torch.tensor([9.0, 0.4]), torch.tensor([0, 0]))
