"""Samples the teacher: noised latents from short samplings of the source with its LoRA, and its answers to them."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.sample
import torch
from torch import Tensor

from ....core.refine.teacher_samples import SAMPLINGS, STEPS_DOWN, count_held_out, make_schedule
from ..sampling.conditioning import Prompt, join_prompts
from ..sampling.noise import choose_step_levels, levels_at
from ..sampling.outputs import Outputs, Start, predict_outputs
from .teacher_cache import TeacherCache

_GROUP = 8  # samplings that run side by side
_GOLDEN = (math.sqrt(5) - 1) / 2  # the fractional parts of its multiples are spread evenly, however many there are
_STORED = torch.float16  # states are rounded before the model sees them; answers are in the unit of the noise

Tell = Callable[[int, int], None]  # gets the number of calls of the source so far, and of all calls
Group = tuple[list[int], Tensor]  # the prompts that are sampled side by side, and their noise levels


@dataclass(frozen=True)
class TeacherSettings:
    """samples: the number of samplings; target_steps: steps of a turbo target, to use only their noise levels; 0 for
    all other targets."""

    samples: int = SAMPLINGS
    seed: int = 0
    target_steps: int = 0


@dataclass(frozen=True)
class Teacher:
    """with_lora: the source with its LoRA; target: the noise levels are limited to what it knows; latent: an empty
    latent that sets the size, (1, channels, ...); needs_source: also ask the source without its LoRA."""

    source: Any
    with_lora: Any
    target: Any
    prompts: Sequence[Prompt]
    latent: Tensor
    needs_source: bool


@dataclass(frozen=True)
class TeacherSet:
    """The source's inputs and answers in its own latent space, float16, (samplings, levels, channels, ...).

    states: noised latents; noise: what the source with its LoRA predicts in them, (state - denoised) / sigma; plain:
    the same without the LoRA; levels: sigma, float32, (samplings, levels); prompts: each sampling's prompt. The last
    `held_out` samplings are only used for the score. seconds: how long it took; 0 if the samples came from the cache.
    """

    states: Tensor
    noise: Tensor
    levels: Tensor
    prompts: Tensor
    plain: Tensor | None
    seconds: float = 0.0

    @property
    def held_out(self) -> int:
        return count_held_out(len(self.prompts))

    def denoised(self, noise: Tensor) -> Tensor:
        """Predicted noise as clean latents, float32 (samplings, levels, ...)."""
        levels = self.levels.reshape(*self.levels.shape, *(1 for _ in self.states.shape[2:]))
        return self.states.float() - levels * noise.float()


def sample_teacher(
    teacher: Teacher, settings: TeacherSettings, cache: TeacherCache, facts: Mapping[str, Any], tell: Tell
) -> TeacherSet:
    """Sample the teacher, or read the samples from the cache; the source is only loaded if something is missing.

    facts: what else the answers depend on (the source's weights, the LoRA, the prompts), as JSON values.
    """
    started = time.monotonic()
    groups = _make_groups(teacher, settings)
    walks = [(group, [round(float(level), 9) for level in levels]) for group, levels in groups]
    shape = list(teacher.latent.shape)
    key = cache.key({**facts, "walks": walks, "seed": settings.seed, "latent": shape, "kept": str(_STORED)})
    known = cache.read(key)
    if known is not None and ("plain" in known or not teacher.needs_source):
        return TeacherSet(**{"plain": None, **known})
    calls = sum(len(group) * len(levels) for group, levels in groups)
    sampler = _Sampler(teacher, settings.seed, groups, tell, calls * ((known is None) + teacher.needs_source))
    if known is None:
        known = sampler.sample(teacher.with_lora, "the source with the LoRA")
    if teacher.needs_source:
        known["plain"] = sampler.sample(teacher.source, "the source alone", known["states"])["noise"]
    cache.write(key, known)
    return replace(TeacherSet(**{"plain": None, **known}), seconds=time.monotonic() - started)


@dataclass
class _Sampler:
    """calls: the number of calls of the model; done: those of earlier groups."""

    teacher: Teacher
    seed: int
    groups: Sequence[Group]
    tell: Tell
    calls: int
    done: int = 0

    def sample(self, model: Any, name: str, states: Tensor | None = None) -> dict[str, Tensor]:
        """The model's answers for all groups, on the states of its own samplings, or on `states` (samplings, levels,
        ...)."""
        parts: list[Outputs] = []
        first = 0
        for group, levels in self.groups:
            rows = slice(first, first + len(group))
            own = None if states is None else states[rows].transpose(0, 1).float()
            conditioning = join_prompts([self.teacher.prompts[index] for index in group])
            parts.append(predict_outputs(model, conditioning, self._start(rows, levels), own, self._tell, name))
            self.done += len(group) * len(levels)
            first = rows.stop
        return self._as_tensors(parts)

    def _start(self, rows: slice, levels: Tensor) -> Start:
        latent = self.teacher.latent
        empty = latent.new_zeros(rows.stop - rows.start, *latent.shape[1:])
        return Start(empty, _make_noise(latent, self.seed, rows), levels, True, self.seed, _STORED)

    def _tell(self, done: int) -> None:
        self.tell(self.done + done, self.calls)

    def _as_tensors(self, parts: Sequence[Outputs]) -> dict[str, Tensor]:
        levels = torch.cat([levels.expand(len(group), -1) for group, levels in self.groups])
        states = torch.cat([part.states.transpose(0, 1) for part in parts])
        denoised = torch.cat([part.denoised.transpose(0, 1) for part in parts])
        noise = (states - denoised) / levels.reshape(*levels.shape, *(1 for _ in states.shape[2:]))
        return {
            "states": states.to(_STORED).contiguous(),
            "levels": levels,
            "prompts": torch.tensor([index for group, _ in self.groups for index in group]),
            "noise": noise.to(_STORED),
        }


def _make_groups(teacher: Teacher, settings: TeacherSettings) -> list[Group]:
    """Group the prompts, which are used in turn, into samplings that run side by side. Each group has noise levels of
    its own. The samplings that are held out for the score come last, in groups of their own."""
    order = [index % len(teacher.prompts) for index in range(settings.samples)]
    first = settings.samples - count_held_out(settings.samples)
    groups = [group for part in (order[:first], order[first:]) for group in _group_by_form(part, teacher.prompts)]
    return [(group, _choose_levels(index, teacher, settings)) for index, group in enumerate(groups)]


def _group_by_form(order: list[int], prompts: Sequence[Prompt]) -> Iterator[list[int]]:
    forms = {form: number for number, form in enumerate(dict.fromkeys(prompt.form for prompt in prompts))}
    by_form = sorted(order, key=lambda index: forms[prompts[index].form])
    for _, group in itertools.groupby(by_form, key=lambda index: forms[prompts[index].form]):
        equal = list(group)
        yield from (equal[first : first + _GROUP] for first in range(0, len(equal), _GROUP))


def _choose_levels(group: int, teacher: Teacher, settings: TeacherSettings) -> Tensor:
    """The noise levels of a group, as the source's sigma."""
    if settings.target_steps:
        return choose_step_levels(settings.target_steps, teacher.source, teacher.target)
    return levels_at(make_schedule(STEPS_DOWN, (group + 0.5) * _GOLDEN % 1), teacher.source, teacher.target)


def _make_noise(latent: Tensor, seed: int, rows: slice) -> Tensor:
    """Noise for these samplings. Each has a seed of its own, so that the noise does not depend on the groups."""
    noises: list[Any] = [
        comfy.sample.prepare_noise(latent[:1], (seed + index) % 2**64) for index in range(rows.start, rows.stop)
    ]
    return torch.cat(noises)
