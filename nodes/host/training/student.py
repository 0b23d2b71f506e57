"""The student: a target MODEL with trainable factors, inside ComfyUI's own sampling (a Student of core.refine)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

import comfy.model_management
import comfy.samplers
import torch
from comfy_extras.nodes_train import TrainGuider, find_modules_at_depth
from torch import Tensor

from ....core.refine.parameterisation import Trainable
from ..card import is_out_of_memory
from ..sampling.conditioning import Prompt, join_prompts
from .bypass import allow_gradients, attend_with_gradients, bypass_layers
from .checkpointing import recompute_blocks
from .saved_tensors import SavedTensors

_BLOCKS = 2  # the depth of blocks in a model: the model, its lists of blocks, the blocks


class Inputs(Protocol):
    """The inputs of a model, by row: noised latents of its own kind of noise, their noise levels and their prompts."""

    @property
    def shape(self) -> Sequence[int]:
        """Of the largest latent: (channels, ...)."""
        ...

    def rows(self, picks: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """The noised latents (picks, channels, ...), sigma (picks), and the numbers of the prompts of these rows, whose
        latents have the same shape."""
        ...


@dataclass(frozen=True)
class StudentInputs:
    """The inputs of a model, by row: noised latents (rows, channels, ...) of its own kind of noise, in float32 or
    less; sigma (rows); the number of the prompt (rows)."""

    states: Tensor
    levels: Tensor
    prompts: Tensor

    @property
    def shape(self) -> Sequence[int]:
        return self.states.shape[1:]

    def rows(self, picks: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        return self.states[picks], self.levels[picks], self.prompts[picks].tolist()


@dataclass
class HostStudent:
    """A model during ComfyUI's sampling.

    call: (state, sigma) -> denoised; extra: further arguments of each call; processed: the prompts as the model takes
    them; trainable: deltas on the model's device; blocks: the model's blocks. rows_at_once, checkpointing and copying
    change when memory runs out or the model overwrites saved tensors; notes says so.
    """

    call: Any
    extra: Mapping[str, Any]
    processed: Sequence[Mapping[str, Any]]
    inputs: Inputs
    trainable: Trainable
    rows_at_once: int
    blocks: Sequence[Any] = ()
    notes: list[str] = field(default_factory=list[str])
    checkpointing: bool = False
    copying: bool = False
    has_gradients: bool = False  # whether the last call was made with gradients

    def predict(self, picks: Tensor) -> Tensor:
        """Denoised predictions (picks, ...) for these rows of the inputs, on the device, float32."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.has_gradients = torch.is_grad_enabled()
        device = self.call.inner_model.device
        states, levels, prompts = self.inputs.rows(picks)
        return self.denoised(states.float().to(device), levels.float().to(device), prompts)

    def denoised(self, states: Tensor, levels: Tensor, prompts: Sequence[int]) -> Tensor:
        """Denoised predictions, with one call of the model for all rows whose prompts can be joined, as in ComfyUI's
        sampling."""
        answers: list[Tensor | None] = [None] * len(states)
        left = list(range(len(states)))
        while left:
            first = self.processed[prompts[left[0]]]["model_conds"]
            rows = [row for row in left if _have_equal_shapes(first, self.processed[prompts[row]]["model_conds"])]
            self.call.conds["positive"] = [_merge([self.processed[prompts[row]]["model_conds"] for row in rows])]
            denoised = self._call(states[rows], levels[rows])
            for row, answer in zip(rows, denoised.float(), strict=True):
                answers[row] = answer
            left = [row for row in left if row not in rows]
        return torch.stack([answer for answer in answers if answer is not None])

    def use_less_memory(self, error: RuntimeError) -> bool:
        """After an error in a step, make the next attempt use less memory; False if there is no way to."""
        if not is_out_of_memory(error):
            return False
        comfy.model_management.soft_empty_cache()
        if self.has_gradients and self.blocks and not self.checkpointing:
            self.checkpointing = True
            self.notes.append("memory ran out: activations are computed again in the backward pass (slower)")
            return True
        if self.rows_at_once == 1:
            return False
        self.rows_at_once = max(1, self.rows_at_once // 2)
        self.notes.append(f"memory ran out: {self.rows_at_once} latents at once, their gradients are added")
        return True

    def _call(self, states: Tensor, levels: Tensor) -> Tensor:
        """One forward pass. The first one with gradients shows whether the model overwrites tensors that the backward
        pass needs, as Flux does. If so, it is made again, and copies are saved from then on."""
        if not torch.is_grad_enabled():
            return self.call(states, levels, **self.extra)
        with recompute_blocks(self.blocks if self.checkpointing else ()), SavedTensors(self.copying) as saved:
            answers = self.call(states, levels, **self.extra)
        if self.copying or not saved.is_overwritten():
            return answers
        del answers  # its graph, before the next one is built
        self.copying = True
        return self._call(states, levels)


def run_in_host(
    model: Any,
    inputs: Inputs,
    prompts: Sequence[Prompt],
    trainable: Trainable,
    rows_at_once: int,
    task: Callable[[HostStudent], None],
    offloading: bool = False,
) -> None:
    """Load the model as ComfyUI's Train LoRA does, and run the task on a student with the deltas on its layers. The
    task can take gradients, whatever torch's mode outside. offloading: the model's weights stay in main memory."""
    with torch.inference_mode(False), _training_mode():
        patcher = _clone_for_training(model)
        allow_gradients(patcher.model)
        guider = TrainGuider(patcher, offloading=offloading)
        guider.set_conds([entry for prompt in prompts for entry in join_prompts([_without_inference_mode(prompt)])])
        row = torch.zeros(1, *inputs.shape)
        sampler = _StudentSampler(patcher.model, inputs, trainable, rows_at_once, task, offloading)
        guider.sample(row, row.clone(), sampler, torch.tensor([1.0, 0.0]), disable_pbar=True, seed=0)


def run_with_room(attempt: Callable[[bool], None]) -> bool:
    """Attempt with the whole model on the card; if memory runs out for good, with its weights in main memory. Returns
    whether it came to that."""
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


@dataclass
class _StudentSampler(comfy.samplers.Sampler):
    """Runs the task as a sampler, so that ComfyUI loads the model and prepares the prompts for it."""

    model: Any
    inputs: Inputs
    trainable: Trainable
    rows_at_once: int
    task: Callable[[HostStudent], None]
    offloading: bool

    def sample(self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        allow_gradients(self.model)
        options = extra_args["model_options"]["transformer_options"]  # of this sampling alone
        options["optimized_attention_override"] = attend_with_gradients
        student = HostStudent(
            model_wrap,
            extra_args,
            list(model_wrap.conds["positive"]),
            self.inputs,
            self.trainable,
            self.rows_at_once,
            find_modules_at_depth(self.model.diffusion_model, _BLOCKS),
            checkpointing=self.offloading,  # otherwise the graph keeps every weight that passes through the card
        )
        with bypass_layers(self.model, self.trainable):
            self.task(student)
        return torch.zeros(1, *self.inputs.shape).to(sigmas)


@contextmanager
def _training_mode() -> Iterator[None]:
    """A context in which ComfyUI's models use code that has gradients, and weights in main memory are copied to the
    card on the computing stream. ComfyUI's other streams reuse a weight's memory right after the forward pass, while
    the backward pass still needs it."""
    state: Any = comfy.model_management
    before = state.in_training, state.NUM_STREAMS
    state.in_training, state.NUM_STREAMS = True, 0
    try:
        yield
    finally:
        state.in_training, state.NUM_STREAMS = before


def _clone_for_training(model: Any) -> Any:
    """A clone on the same weights, in a precision in which gradients do not vanish. A model that ComfyUI streams to the
    card or keeps packed is loaded a second time, as for ComfyUI's own training."""
    if model.is_dynamic():
        patcher = model.get_non_dynamic_delegate()
    else:
        packed = any(type(weight.data) is not Tensor and weight.is_inference() for weight in model.model.parameters())
        patcher = model.clone(force_deepcopy=packed and model.cached_patcher_init is not None)
    if patcher.model.get_dtype_inference() == torch.float16:
        fits = comfy.model_management.should_use_bf16(patcher.load_device)
        patcher.set_model_compute_dtype(torch.bfloat16 if fits else torch.float32)
    return patcher


def _without_inference_mode(prompt: Prompt) -> Prompt:
    """The prompt with tensors that a backward pass can save."""
    return Prompt(_clone_tensors(prompt.text), _clone_tensors(dict(prompt.options)))


def _clone_tensors(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (list, tuple):
        return type(value)(_clone_tensors(item) for item in value)
    return {key: _clone_tensors(item) for key, item in value.items()} if type(value) is dict else value


def _have_equal_shapes(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return comfy.samplers.cond_equal_size(first, second)


def _merge(conds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several prepared prompts as one, with a row for each."""
    rows = [{key: value.process_cond(batch_size=1, area=None) for key, value in cond.items()} for cond in conds]
    joined = {key: first._copy_with(first.concat([row[key] for row in rows[1:]])) for key, first in rows[0].items()}
    return {"model_conds": joined, "uuid": uuid4()}
