"""Refine as the node does it, on the models of this benchmark: the same loop of core.refine, another teacher's desk."""

import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from core.delta import LowRankDelta
from core.refine.loop import RefineSettings, Step, refine
from core.refine.teacher_samples import STEPS_DOWN, TeacherSamples, choose_aims, count_held_out, make_schedule
from core.refine.trainable import balance_factors, make_zero_factors

from ..quality.autoencoder import decode, encode
from ..quality.engine import Factors
from ..quality.families import Family, State
from ..quality.training import EMPTY_PROMPTS, levels, with_lora

GROUP = 8  # samplings that go down the schedule side by side


@dataclass(frozen=True)
class TeacherSet:
    """What the source with its LoRA saw and said on the way of its samplings, one row for each call: noised latents
    and level in its own terms, the prompt's context, and its denoised predictions, with the LoRA and without."""

    family: Family
    noised: Tensor
    level: Tensor
    context: Tensor
    teacher: Tensor
    plain: Tensor
    samplings: int
    seconds: float

    def held_out(self) -> int:
        """Rows at the end that are not trained on: those of whole samplings."""
        return len(self.level) // self.samplings * count_held_out(self.samplings)


def teach(
    family: Family,
    model: nn.Module,
    base: State,
    lora: Factors,
    contexts: Tensor,
    samplings: int,
    seed: int,
) -> TeacherSet:
    """Sample with source + LoRA for prompts drawn from contexts (prompts, 10, 384), some of them empty."""
    started = time.monotonic()
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(len(contexts), generator=generator) for _ in range(-(-samplings // len(contexts)))]
    picks = torch.cat(drawn)[:samplings]
    spoken = torch.rand(samplings, generator=generator) >= EMPTY_PROMPTS
    prompts = contexts[picks] * spoken[:, None, None]
    changed = with_lora(base, lora)
    rows: list[tuple[Tensor, ...]] = []
    with torch.inference_mode():
        for context in prompts.split(GROUP):
            now = torch.randn(len(context), 16, 8, 8, generator=generator)
            shares = make_schedule(STEPS_DOWN, float(torch.rand(1, generator=generator)))
            way = [max(0.004, 0.998 * share) for share in shares]
            group: list[tuple[Tensor, ...]] = []
            for here, following in zip(way, [*way[1:], 0.0], strict=True):
                at = torch.full((len(now),), here)
                answer = family.predict(model, changed, now, at, context)
                denoised = family.denoised(now, answer, at)
                group.append((now, at, context, denoised))
                now = family.noised(denoised, family.noise(denoised, answer), torch.full_like(at, following))
            rows += zip(*(torch.stack(one, 1).unbind() for one in zip(*group, strict=True)), strict=True)
    noised, level, context, teacher = (torch.cat(one).clone() for one in zip(*rows, strict=True))
    seconds = time.monotonic() - started  # without the LoRA only to match differences: not counted
    plain = _denoised(family, model, base, noised, level, context)
    return TeacherSet(family, noised, level, context, teacher, plain, samplings, seconds)


def through_pictures(taught: TeacherSet, autoencoder: Any, seed: int) -> TeacherSet:
    """What is left of a teacher where the target has latents of its own: its finished pictures, decoded and encoded
    anew, noised afresh. The aim is the picture itself; there is nothing to take a difference of."""
    started = time.monotonic()
    rows = len(taught.level) // taught.samplings
    finished = taught.teacher[rows - 1 :: rows]
    pictures = encode(autoencoder, decode(autoencoder, finished)).repeat_interleave(rows, 0)
    generator = torch.Generator().manual_seed(seed)
    level = levels(len(pictures), generator)
    noised = taught.family.noised(pictures, torch.randn(pictures.shape, generator=generator), level)
    seconds = taught.seconds + time.monotonic() - started
    return replace(taught, noised=noised, level=level, teacher=pictures, plain=pictures, seconds=seconds)


@dataclass(frozen=True)
class Pupil:
    """core.refine's Student: a target of this benchmark. noised and level are in its own terms."""

    family: Family
    model: nn.Module
    base: State
    factors: Factors
    noised: Tensor
    level: Tensor
    context: Tensor
    rows_at_once: int = 10_000

    def predict(self, picks: Tensor) -> Tensor:
        weights = with_lora(self.base, self.factors)
        with self.family.gradients():
            noised, level, context = self.noised[picks], self.level[picks], self.context[picks]
            return self.family.denoised(noised, self.family.predict(self.model, weights, noised, level, context), level)

    def use_less_memory(self, error: RuntimeError) -> bool:
        return False


@dataclass(frozen=True)
class Refined:
    """A run: its last step, the score at the start and how long the student took."""

    last: Step
    start: float
    seconds: float

    @cached_property
    def factors(self) -> Factors:
        return {name: (delta.up, delta.down) for name, delta in self.last.best.deltas.items()}


def refined(
    family: Family, model: nn.Module, base: State, taught: TeacherSet, start: Factors | None, settings: RefineSettings
) -> Refined:
    """A LoRA refined on a target from carried factors, or from zeros at settings.rank."""
    generator = torch.Generator().manual_seed(settings.seed)
    if start is None:
        shapes = {key: weight.flatten(1).shape for key, weight in base.items() if weight.ndim > 1 and "blocks." in key}
        given = {
            key: make_zero_factors((shape[0], shape[1]), settings.rank, generator)
            for key, shape in shapes.items()
            if not key.startswith("input_blocks.0.")
        }
    else:
        given = {key: balance_factors(LowRankDelta(*pair), generator) for key, pair in start.items()}
    factors = {key: (up.requires_grad_(), down.requires_grad_()) for key, (up, down) in given.items()}
    pupil = _at_the_desk(Pupil(family, model, base, factors, taught.noised, taught.level, taught.context), taught)
    bare = _denoised(family, model, base, pupil.noised, pupil.level, pupil.context)
    lessons = TeacherSamples(
        choose_aims(settings.match, taught.teacher, taught.plain, bare),
        family.sigma(pupil.level),
        taught.held_out(),
        bare[-taught.held_out() :],
    )
    started = time.monotonic()
    steps = list(refine(pupil, lessons, settings))
    return Refined(steps[-1], steps[0].best.score, time.monotonic() - started)


def _at_the_desk(pupil: Pupil, taught: TeacherSet) -> Pupil:
    """The same noised latents in the target's own terms: at the level with as much noise beside a clean latent."""
    if pupil.family.name == taught.family.name:
        return pupil
    ours = torch.linspace(0.002, 0.998, 1999)
    wanted = taught.family.beside(taught.level)
    level = ours[torch.searchsorted(pupil.family.beside(ours), wanted).clamp(max=len(ours) - 1)]
    shares = [torch.stack(family.shares(at)) for family, at in ((pupil.family, level), (taught.family, taught.level))]
    # By the larger share: at the ends of a schedule there may be no level that is quite as noisy.
    by_noise = shares[1][1] > shares[1][0]
    factor = torch.where(by_noise, shares[0][1] / shares[1][1], shares[0][0] / shares[1][0])
    return replace(pupil, noised=taught.noised * factor[:, None, None, None], level=level)


def _denoised(
    family: Family, model: nn.Module, weights: State, noised: Tensor, level: Tensor, context: Tensor
) -> Tensor:
    with torch.inference_mode():
        parts = zip(noised.split(96), level.split(96), context.split(96), strict=True)
        found = [family.denoised(x, family.predict(model, weights, x, at, c), at) for x, at, c in parts]
    return torch.cat(found).clone()
