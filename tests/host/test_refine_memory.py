"""A refinement leaves nothing in memory: many in a row take what three take.

REFINEMENTS=25 before the command that runs these tests makes twenty-five in a row, which takes minutes.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch

from lora_transfer.nodes.host.training.student import HostStudent
from tests.host.conftest import SmallPair
from tests.host.small_check import loaded, text
from tests.host.small_refine import FEW, SHORT, Emoji, demo_prompts, emoji

RUNS, SETTLED = int(os.environ.get("REFINEMENTS", "7")), 3
GROWTH = 0.01  # of the process's memory, from the third run to the last
BRIEF, LEAST = replace(SHORT, steps=1, batch=2, checks=1), replace(FEW, samples=2)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory from /proc")


@pytest.fixture(scope="module", autouse=True)
def as_nodes_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = folder_paths.get_user_directory()
    folder_paths.set_user_directory(str(tmp_path_factory.mktemp("user")))
    with torch.inference_mode():
        yield
    folder_paths.set_user_directory(before)


def test_refining_a_transformer_that_adds_in_place_leaves_nothing_in_memory() -> None:
    models = emoji()
    assert growth(lambda: refine(models, conditioning=demo_prompts(["ghost"]))) < GROWTH


def test_refining_a_unet_leaves_nothing_in_memory(pair: SmallPair) -> None:
    models = unets(pair)
    assert growth(lambda: refine(models, conditioning=text(768))) < GROWTH


def test_a_first_step_that_runs_out_of_memory_leaves_nothing_in_memory() -> None:
    models = emoji()
    assert growth(lambda: refine_with_full_card(models, demo_prompts(["ghost"]))) < GROWTH


def test_a_first_step_of_a_unet_that_runs_out_of_memory_leaves_nothing_in_memory(pair: SmallPair) -> None:
    models = unets(pair)
    assert growth(lambda: refine_with_full_card(models, text(768))) < GROWTH


def test_the_way_of_saving_is_chosen_without_a_backward_pass_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[RuntimeError] = []
    whole = HostStudent.use_less_memory

    def use_less_memory(self: HostStudent, error: RuntimeError) -> bool:
        errors.append(error)
        return whole(self, error)

    monkeypatch.setattr(HostStudent, "use_less_memory", use_less_memory)
    refine(emoji(), conditioning=demo_prompts(["ghost"]))
    assert errors == []


def refine(models: Emoji, **inputs: Any) -> None:
    models.refined(BRIEF, LEAST, **inputs)


def refine_with_full_card(models: Emoji, conditioning: Any) -> None:
    """The last layers of the target find no memory the first time that they are called with gradients."""
    last = list(models.target.model.diffusion_model.children())[-1]
    calls: list[int] = []

    def fill(*_: Any) -> None:
        if torch.is_grad_enabled() and not calls:
            calls.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    hook = last.register_forward_pre_hook(fill)
    try:
        refine(models, conditioning=conditioning)
    finally:
        hook.remove()
    assert calls == [1]


def unets(pair: SmallPair) -> Emoji:
    small = loaded(pair)
    return Emoji(small.source, small.target, small.target, small.lora)


def growth(run: Callable[[], None]) -> float:
    """The share by which the process's memory grows between the third run and the last."""
    for _ in range(SETTLED):
        run()
    before = memory()
    for _ in range(RUNS - SETTLED):
        run()
    return memory() / before - 1


def memory() -> int:
    """Pages of the process in memory, less what Python and the C library can let go of."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1])
