"""Refines a LoRA on this benchmark's models with the node's loop, core.refine; sampling and calls are our own."""

import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from core.delta import LowRankDelta
from core.refine.factors import balance_factors, make_zero_factors
from core.refine.loop import RefineSettings, Step, refine
from core.refine.parameterisation import Trainable, free_factors, require_gradients
from core.refine.teacher_samples import STEPS_DOWN, TeacherSamples, choose_aims, count_held_out, make_schedule

from ..quality.autoencoder import decode, encode
from ..quality.engine import Factors
from ..quality.families import Family, State
from ..quality.training import EMPTY_PROMPTS, layers_of_a_lora, levels, with_lora

GROUP = 8  # samplings that run side by side


@dataclass(frozen=True)
class TeacherSet:
    """Teacher samples: one row for each call of the source in its samplings.

    noised and level are in the source's terms; context is the prompt's; teacher and plain are its denoised predictions
    with and without the LoRA. Latents are (rows, 16, 8, 8)."""

    family: Family
    noised: Tensor
    level: Tensor
    context: Tensor
    teacher: Tensor
    plain: Tensor
    samplings: int
    seconds: float

    def held_out(self) -> int:
        """How many rows at the end are held out from training: those of whole samplings."""
        return len(self.level) // self.samplings * count_held_out(self.samplings)


def sample_teacher(
    family: Family,
    model: nn.Module,
    base: State,
    lora: Factors,
    contexts: Tensor,
    samplings: int,
    seed: int,
) -> TeacherSet:
    """Samples the source with its LoRA for prompts drawn from contexts (prompts, 10, 384), some of them empty."""
    started = time.monotonic()
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(len(contexts), generator=generator) for _ in range(-(-samplings // len(contexts)))]
    picks = torch.cat(drawn)[:samplings]
    not_empty = torch.rand(samplings, generator=generator) >= EMPTY_PROMPTS
    prompts = contexts[picks] * not_empty[:, None, None]
    weights = with_lora(base, lora)
    rows: list[tuple[Tensor, ...]] = []
    with torch.inference_mode():
        for context in prompts.split(GROUP):
            now = torch.randn(len(context), 16, 8, 8, generator=generator)
            shares = make_schedule(STEPS_DOWN, float(torch.rand(1, generator=generator)))
            path = [max(0.004, 0.998 * share) for share in shares]
            group: list[tuple[Tensor, ...]] = []
            for here, following in zip(path, [*path[1:], 0.0], strict=True):
                at = torch.full((len(now),), here)
                answer = family.predict(model, weights, now, at, context)
                denoised = family.denoise(now, answer, at)
                group.append((now, at, context, denoised))
                now = family.add_noise(denoised, family.noise(denoised, answer), torch.full_like(at, following))
            rows += zip(*(torch.stack(column, 1).unbind() for column in zip(*group, strict=True)), strict=True)
    noised, level, context, teacher = (torch.cat(column).clone() for column in zip(*rows, strict=True))
    seconds = time.monotonic() - started  # not the calls without the LoRA, which only matching differences needs
    plain = _predict_denoised(family, model, base, noised, level, context)
    return TeacherSet(family, noised, level, context, teacher, plain, samplings, seconds)


def pass_through_pictures(samples: TeacherSet, autoencoder: Any, seed: int) -> TeacherSet:
    """Teacher samples for a target with other latents: the teacher's finished pictures, decoded, encoded and noised
    again. The picture itself is the aim, so differences cannot be matched."""
    started = time.monotonic()
    rows = len(samples.level) // samples.samplings
    finished = samples.teacher[rows - 1 :: rows]
    pictures = encode(autoencoder, decode(autoencoder, finished)).repeat_interleave(rows, 0)
    generator = torch.Generator().manual_seed(seed)
    level = levels(len(pictures), generator)
    noised = samples.family.add_noise(pictures, torch.randn(pictures.shape, generator=generator), level)
    seconds = samples.seconds + time.monotonic() - started
    return replace(samples, noised=noised, level=level, teacher=pictures, plain=pictures, seconds=seconds)


@dataclass(frozen=True)
class BenchmarkStudent:
    """core.refine's Student for a target of this benchmark. noised and level are in the target's terms."""

    family: Family
    model: nn.Module
    base: State
    trainable: Trainable
    noised: Tensor
    level: Tensor
    context: Tensor
    rows_at_once: int = 10_000

    def predict(self, picks: Tensor) -> Tensor:
        weights = with_lora(self.base, {name: delta.factors() for name, delta in self.trainable.items()})
        with self.family.gradients():
            noised, level, context = self.noised[picks], self.level[picks], self.context[picks]
            return self.family.denoise(noised, self.family.predict(self.model, weights, noised, level, context), level)

    def use_less_memory(self, error: RuntimeError) -> bool:
        return False


@dataclass(frozen=True)
class RefinedLora:
    """The result of a run: its last step, the score at the start, and the seconds of the training."""

    last: Step
    start: float
    seconds: float

    @cached_property
    def factors(self) -> Factors:
        return {name: (delta.up, delta.down) for name, delta in self.last.best.deltas.items()}


def start_from(base: State, lora: Factors | None, settings: RefineSettings) -> Trainable:
    """Balanced factors of a transferred LoRA, or zeros at settings.rank."""
    generator = torch.Generator().manual_seed(settings.seed)
    if lora is None:
        shapes = {key: base[key].flatten(1).shape for key in layers_of_a_lora(base)}
        start = {key: make_zero_factors((m, n), settings.rank, generator) for key, (m, n) in shapes.items()}
    else:
        start = {key: balance_factors(LowRankDelta(*pair), generator) for key, pair in lora.items()}
    return free_factors({key: LowRankDelta(*pair) for key, pair in start.items()})


def refine_lora(
    family: Family, model: nn.Module, base: State, samples: TeacherSet, start: Trainable, settings: RefineSettings
) -> RefinedLora:
    """Refines a LoRA on a target."""
    trainable = require_gradients(start, torch.device("cpu"))
    student = _in_target_terms(
        BenchmarkStudent(family, model, base, trainable, samples.noised, samples.level, samples.context), samples
    )
    bare = _predict_denoised(family, model, base, student.noised, student.level, student.context)
    teacher_samples = TeacherSamples(
        choose_aims(settings.match, samples.teacher, samples.plain, bare),
        family.sigma(student.level),
        samples.held_out(),
        bare[-samples.held_out() :],
    )
    started = time.monotonic()
    steps = list(refine(student, teacher_samples, settings))
    return RefinedLora(steps[-1], steps[0].best.score, time.monotonic() - started)


def _in_target_terms(student: BenchmarkStudent, samples: TeacherSet) -> BenchmarkStudent:
    """Rescales the noised latents to the target's terms, at the level with the same ratio of noise to clean latent."""
    if student.family.name == samples.family.name:
        return student
    candidates = torch.linspace(0.002, 0.998, 1999)
    wanted = samples.family.noise_ratio(samples.level)
    nearest = torch.searchsorted(student.family.noise_ratio(candidates), wanted).clamp(max=len(candidates) - 1)
    level = candidates[nearest]
    shares = [
        torch.stack(family.shares(at)) for family, at in ((student.family, level), (samples.family, samples.level))
    ]
    # Scale by the larger share: at the ends of a schedule no level may have exactly this ratio.
    by_noise = shares[1][1] > shares[1][0]
    factor = torch.where(by_noise, shares[0][1] / shares[1][1], shares[0][0] / shares[1][0])
    return replace(student, noised=samples.noised * factor[:, None, None, None], level=level)


def _predict_denoised(
    family: Family, model: nn.Module, weights: State, noised: Tensor, level: Tensor, context: Tensor
) -> Tensor:
    with torch.inference_mode():
        parts = zip(noised.split(96), level.split(96), context.split(96), strict=True)
        denoised = [family.denoise(x, family.predict(model, weights, x, at, c), at) for x, at, c in parts]
    return torch.cat(denoised).clone()
