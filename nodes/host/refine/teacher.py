"""The teacher set: what the source with its adapter sees and answers on the way of its own short samplings."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.sample
import torch
from torch import Tensor

from ....core.refine.teacher_samples import SAMPLINGS, STEPS_DOWN, held_out, way_down
from ..sampling.conditioning import Prompt, together
from ..sampling.noise import levels_at, levels_of_steps
from ..sampling.outputs import Outputs, Start, outputs
from .teacher_cache import TeacherCache

_GROUP = 8  # samplings that go down the schedule side by side
_GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it, less their whole part, are spread evenly however many there are
_KEPT = torch.float16  # the states are rounded before the model sees them, the rest is in the unit of the noise

Tell = Callable[[int, int], None]  # calls of the source that are done, of all


@dataclass(frozen=True)
class TeacherSettings:
    """samples: samplings in all; target_steps: of a turbo target, whose levels alone are taken; 0 any."""

    samples: int = SAMPLINGS
    seed: int = 0
    target_steps: int = 0


@dataclass(frozen=True)
class TeacherSet:
    """What the source saw and answered, in its own terms and in float16: (samplings, levels, channels, ...).

    states: noised latents; noise: of them, as the source with its adapter takes it, (state - denoised) / sigma; plain:
    as it does without; levels: sigma, float32, (samplings, levels); prompts: which prompt, (samplings). The samplings
    at the end, `held_out` of them, are not to be trained on. seconds: of teaching; 0 where it was kept.
    """

    states: Tensor
    noise: Tensor
    levels: Tensor
    prompts: Tensor
    plain: Tensor | None
    seconds: float = 0.0

    @property
    def held_out(self) -> int:
        return held_out(len(self.prompts))

    def denoised(self, noise: Tensor) -> Tensor:
        """Clean latents as float32 (samplings, levels, ...)."""
        levels = self.levels.reshape(*self.levels.shape, *(1 for _ in self.states.shape[2:]))
        return self.states.float() - levels * noise.float()


def taught(
    source: Any,
    patched: Any,
    target: Any,
    prompts: Sequence[Prompt],
    latent: Tensor,
    settings: TeacherSettings,
    with_plain: bool,
    cache: TeacherCache,
    facts: Mapping[str, Any],
    tell: Tell,
) -> TeacherSet:
    """The teacher set for these prompts at the size of `latent` (1, channels, ...), from the cache where it is there.

    patched: the source with its adapter; with_plain: the source's own answers are needed too; facts: what else the set
    follows from (the source and its adapter), as JSON has it. The source is loaded only where something is to be asked.
    """
    started = time.monotonic()
    groups = _groups(source, target, prompts, settings)
    walks = [(group, [round(float(one), 9) for one in levels]) for group, levels in groups]
    key = cache.key({**facts, "walks": walks, "seed": settings.seed, "latent": list(latent.shape), "kept": str(_KEPT)})
    known = cache.read(key)
    if known is not None and ("plain" in known or not with_plain):
        return TeacherSet(**{"plain": None, **known})
    calls = sum(len(group) * len(levels) for group, levels in groups)
    passes = (known is None) + with_plain
    counted = _Counted(tell, calls * passes)
    if known is None:
        known = _asked(patched, prompts, groups, latent, settings.seed, None, counted, "the source with the LoRA")
    if with_plain:
        own = _asked(source, prompts, groups, latent, settings.seed, known["states"], counted, "the source alone")
        known["plain"] = own["noise"]
    cache.write(key, known)
    return replace(TeacherSet(**{"plain": None, **known}), seconds=time.monotonic() - started)


@dataclass
class _Counted:
    tell: Tell
    total: int
    before: int = 0

    def __call__(self, done: int) -> None:
        self.tell(self.before + done, self.total)


def _groups(
    source: Any, target: Any, prompts: Sequence[Prompt], settings: TeacherSettings
) -> list[tuple[list[int], Tensor]]:
    """Which prompts are sampled side by side, and their levels: each group at places of its own on the schedule. The
    prompts come in turn; those at the end, which are held out, are not mixed with the others."""
    order = [index % len(prompts) for index in range(settings.samples)]
    first = settings.samples - held_out(settings.samples)
    groups = [group for some in (order[:first], order[first:]) for group in _of_one_form(some, prompts)]
    return [(group, _levels(index, source, target, settings)) for index, group in enumerate(groups)]


def _of_one_form(order: list[int], prompts: Sequence[Prompt]) -> Iterator[list[int]]:
    forms = {form: place for place, form in enumerate(dict.fromkeys(one.form for one in prompts))}
    by_form = sorted(order, key=lambda index: forms[prompts[index].form])
    for _, group in itertools.groupby(by_form, key=lambda index: forms[prompts[index].form]):
        alike = list(group)
        yield from (alike[first : first + _GROUP] for first in range(0, len(alike), _GROUP))


def _levels(group: int, source: Any, target: Any, settings: TeacherSettings) -> Tensor:
    """The levels of a group in the source's terms."""
    if settings.target_steps:
        return levels_of_steps(settings.target_steps, source, target)
    return levels_at(way_down(STEPS_DOWN, (group + 0.5) * _GOLDEN % 1), source, target)


def _asked(
    model: Any,
    prompts: Sequence[Prompt],
    groups: Sequence[tuple[list[int], Tensor]],
    latent: Tensor,
    seed: int,
    states: Tensor | None,
    counted: _Counted,
    what: str,
) -> dict[str, Tensor]:
    """The model's answers of all groups, on its own way or on given states (samplings, levels, ...)."""
    parts: list[Outputs] = []
    first = 0
    for group, levels in groups:
        some = slice(first, first + len(group))
        start = Start(
            latent.new_zeros(len(group), *latent.shape[1:]), _noise(latent, seed, some), levels, True, seed, _KEPT
        )
        given = None if states is None else states[some].transpose(0, 1).float()
        parts.append(outputs(model, together([prompts[one] for one in group]), start, given, counted, what))
        counted.before += len(group) * len(levels)
        first = some.stop
    found = {
        "states": torch.cat([one.states.transpose(0, 1) for one in parts]),
        "levels": torch.cat([levels.expand(len(group), -1) for group, levels in groups]),
        "prompts": torch.tensor([one for group, _ in groups for one in group]),
    }
    levels = found["levels"].reshape(*found["levels"].shape, *(1 for _ in latent.shape[1:]))
    denoised = torch.cat([one.denoised.transpose(0, 1) for one in parts])
    noise = (found["states"] - denoised) / levels
    return {**found, "states": found["states"].to(_KEPT).contiguous(), "noise": noise.to(_KEPT)}


def _noise(latent: Tensor, seed: int, some: slice) -> Tensor:
    """Of each sampling from a seed of its own: it does not depend on the others beside it."""
    noises: list[Any] = [
        comfy.sample.prepare_noise(latent[:1], (seed + index) % 2**64) for index in range(some.start, some.stop)
    ]
    return torch.cat(noises)
