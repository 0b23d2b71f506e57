"""The student: a target MODEL with trainable factors, inside ComfyUI's own sampling (core.refine's Student)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import comfy.model_management
import comfy.samplers
import torch
from comfy_extras.nodes_train import TrainGuider, find_modules_at_depth
from torch import Tensor

from ..card import is_out_of_memory
from ..sampling.conditioning import Prompt, together
from .bypass import Factors, attention_with_gradients, bypassed, usable_for_gradients
from .checkpointing import copies_kept, recomputed

_BLOCKS = 2  # how deep they lie in a model: itself, its blocks, their parts
_IN_PLACE = "modified by an inplace operation"


@dataclass(frozen=True)
class Desk:
    """What is laid before a model, a row each: noised latents (rows, channels, ...) in its own terms, float32 or less,
    sigma (rows), and which prompt (rows)."""

    states: Tensor
    levels: Tensor
    prompts: Tensor


@dataclass
class HostStudent:
    """call: the loaded model within ComfyUI's sampling, (state, sigma) -> denoised; extra: what goes with each call;
    processed: the prompts as the model takes them. factors are on its device; blocks: those of the model. at_once,
    checkpointing and cloning change as memory runs out or torch refuses a step; notes says so.
    """

    call: Any
    extra: Mapping[str, Any]
    processed: Sequence[Mapping[str, Any]]
    desk: Desk
    factors: Factors
    at_once: int
    blocks: Sequence[Any] = ()
    notes: list[str] = field(default_factory=list[str])
    checkpointing: bool = False
    cloning: bool = False
    learning: bool = False  # whether the last call was made with gradients

    def answers(self, picks: Tensor) -> Tensor:
        """Denoised predictions (picks, ...) for rows of the desk, on the device, float32."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.learning = torch.is_grad_enabled()
        device = self.call.inner_model.device
        states, levels = (one[picks].float().to(device) for one in (self.desk.states, self.desk.levels))
        return self.denoised(states, levels, self.desk.prompts[picks].tolist())

    def denoised(self, states: Tensor, levels: Tensor, prompts: Sequence[int]) -> Tensor:
        """One call of the model for all rows whose prompts can be put together, as ComfyUI's sampling does it."""
        answers: list[Tensor | None] = [None] * len(states)
        left = list(range(len(states)))
        while left:
            first = self.processed[prompts[left[0]]]["model_conds"]
            rows = [row for row in left if _alike(first, self.processed[prompts[row]]["model_conds"])]
            self.call.conds["positive"] = [_merged([self.processed[prompts[row]]["model_conds"] for row in rows])]
            with self._forwards():
                found = self.call(states[rows], levels[rows], **self.extra)
            for row, one in zip(rows, found.float(), strict=True):
                answers[row] = one
            left = [row for row in left if row not in rows]
        return torch.stack([one for one in answers if one is not None])

    def lightened(self, error: RuntimeError) -> bool:
        """After an error in a step: whether it can be tried anew, because it now takes less."""
        if _IN_PLACE in str(error) and not self.cloning:
            self.cloning = True
            return True
        if not is_out_of_memory(error):
            return False
        comfy.model_management.soft_empty_cache()
        if self.learning and self.blocks and not self.checkpointing:
            self.checkpointing = True
            self.notes.append("memory ran out: activations are computed again in the backward pass (slower)")
            return True
        if self.at_once == 1:
            return False
        self.at_once = max(1, self.at_once // 2)
        self.notes.append(f"memory ran out: {self.at_once} latents at once, their gradients are added")
        return True

    @contextmanager
    def _forwards(self) -> Iterator[None]:
        with ExitStack() as stack:
            if torch.is_grad_enabled():
                if self.cloning:
                    stack.enter_context(copies_kept())
                if self.checkpointing:
                    stack.enter_context(recomputed(self.blocks))
            yield


def in_host(
    model: Any,
    desk: Desk,
    prompts: Sequence[Prompt],
    factors: Factors,
    at_once: int,
    lesson: Callable[[HostStudent], None],
    offloading: bool = False,
) -> None:
    """Load the model as ComfyUI's Train LoRA does, and give the lesson with the factors on its layers. Gradients can be
    taken within, whatever mode of torch it is called in. offloading: its weights stay in main memory."""
    with torch.inference_mode(False), _training():
        patcher = _for_training(model)
        usable_for_gradients(patcher.model)
        guider = TrainGuider(patcher, offloading=offloading)
        guider.set_conds([entry for prompt in prompts for entry in together([_normal(prompt)])])
        row = desk.states[:1].float().clone()
        sampler = _Lesson(patcher.model, desk, factors, at_once, lesson, offloading)
        guider.sample(row, torch.zeros_like(row), sampler, torch.tensor([1.0, 0.0]), disable_pbar=True, seed=0)


def with_room(attempt: Callable[[bool], None]) -> bool:
    """Attempt with the whole model on the card, and where memory runs out for good with its weights in main memory.
    Whether it came to that."""
    try:
        attempt(False)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    else:
        return False
    comfy.model_management.soft_empty_cache()
    attempt(True)
    return True


def with_gradients(factors: Factors, device: torch.device) -> Factors:
    """The factors as leaves that gradients are taken of."""
    with torch.inference_mode(False):
        return {
            name: (up.clone().to(device).requires_grad_(), down.clone().to(device).requires_grad_())
            for name, (up, down) in factors.items()
        }


@dataclass
class _Lesson(comfy.samplers.Sampler):
    """To ComfyUI a lesson is a sampler like any other: it gets the loaded model and the prepared prompts."""

    model: Any
    desk: Desk
    factors: Factors
    at_once: int
    lesson: Callable[[HostStudent], None]
    offloading: bool

    def sample(self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        usable_for_gradients(self.model)
        options = extra_args["model_options"]["transformer_options"]  # of this sampling alone
        options["optimized_attention_override"] = attention_with_gradients
        student = HostStudent(
            model_wrap,
            extra_args,
            list(model_wrap.conds["positive"]),
            self.desk,
            self.factors,
            self.at_once,
            find_modules_at_depth(self.model.diffusion_model, _BLOCKS),
            checkpointing=self.offloading,  # weights on their way through the card are let go of only so
        )
        with bypassed(self.model, self.factors):
            self.lesson(student)
        return torch.zeros_like(self.desk.states[:1].float()).to(sigmas)


@contextmanager
def _training() -> Iterator[None]:
    """ComfyUI's models take paths that gradients go through, and weights that stay in main memory come to the card on
    the stream that computes: ComfyUI's others reuse a weight's memory as soon as the forward pass is through with it,
    while the backward pass still wants it."""
    state: Any = comfy.model_management
    before = state.in_training, state.NUM_STREAMS
    state.in_training, state.NUM_STREAMS = True, 0
    try:
        yield
    finally:
        state.in_training, state.NUM_STREAMS = before


def _for_training(model: Any) -> Any:
    """A clone on the same weights, in a precision that gradients do not vanish in. What ComfyUI streams to the card or
    keeps packed it loads a second time, as for its own training."""
    if model.is_dynamic():
        patcher = model.get_non_dynamic_delegate()
    else:
        packed = any(type(one.data) is not Tensor and one.is_inference() for one in model.model.parameters())
        patcher = model.clone(force_deepcopy=packed and model.cached_patcher_init is not None)
    if patcher.model.get_dtype_inference() == torch.float16:
        fits = comfy.model_management.should_use_bf16(patcher.load_device)
        patcher.set_model_compute_dtype(torch.bfloat16 if fits else torch.float32)
    return patcher


def _normal(prompt: Prompt) -> Prompt:
    """The prompt in tensors that a backward pass can save."""
    return Prompt(_own(prompt.text), _own(dict(prompt.options)))


def _own(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (list, tuple):
        return type(value)(_own(one) for one in value)
    return {key: _own(one) for key, one in value.items()} if type(value) is dict else value


def _alike(first: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return comfy.samplers.cond_equal_size(first, other)


def _merged(conds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Prepared prompts as one, a row each."""
    rows = [{key: one.process_cond(batch_size=1, area=None) for key, one in cond.items()} for cond in conds]
    joined = {key: first._copy_with(first.concat([row[key] for row in rows[1:]])) for key, first in rows[0].items()}
    return {"model_conds": joined, "uuid": uuid4()}
