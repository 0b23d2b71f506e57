"""Turns the teacher's samples into inputs for the target: noised latents where the models share their latents, else
pictures that the source's VAE decodes and the target's encodes."""

import time
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import torch
from torch import Tensor

from ....core.errors import InvalidSetting, NotMeasurable
from ....core.refine.teacher_samples import Match, make_schedule
from ....core.reports.refine import TeacherRun
from ..sampling.noise import choose_step_levels, convert_noise, latent_space, levels_at
from ..training.student import StudentInputs
from .teacher import TeacherSet, TeacherSettings

_LEVELS = 8  # at which each picture is noised


@dataclass(frozen=True)
class TargetSamples:
    """The teacher's samples as the target takes them. teacher: the denoised predictions to learn; plain: those of the
    source without its LoRA, or None; both (rows, channels, ...), float32. held_out: the number of rows at the end that
    are only used for the score."""

    inputs: StudentInputs
    teacher: Tensor
    plain: Tensor | None
    held_out: int
    account: TeacherRun

    def preview_prompt(self) -> int:
        """The number of the prompt for the previews: a prompt that is not trained on."""
        return int(self.inputs.prompts[-self.held_out])


def require_convertible(source: Any, target: Any, match: Match, with_vaes: bool) -> None:
    """NotMeasurable if the source's samples cannot be converted for the target; InvalidSetting if only this `match`
    rules it out."""
    spaces = latent_space(source), latent_space(target)
    if spaces[0] == spaces[1]:
        convert_noise(source, target)
        return
    if match == "differences":
        raise InvalidSetting(
            f"match differences: expected two models with the same latents, found {spaces[0]} and {spaces[1]}. Only "
            "finished pictures can be converted between these: choose match outputs."
        )
    if not with_vaes:
        raise NotMeasurable(
            f"Source and target: expected two models with the same latents, found {spaces[0]} and {spaces[1]}. Connect "
            "the VAE of each as source_vae and target_vae: the target then learns from the source's finished pictures."
        )


def convert_states(samples: TeacherSet, source: Any, target: Any) -> TargetSamples:
    """Convert the teacher's noised latents and answers to the target's kind of noise."""
    levels = samples.levels.flatten()
    between = convert_noise(source, target)
    states = between.states(samples.states.float().flatten(0, 1), levels)
    prompts = samples.prompts.repeat_interleave(samples.levels.shape[1])
    teacher = samples.denoised(samples.noise).flatten(0, 1)
    plain = None if samples.plain is None else samples.denoised(samples.plain).flatten(0, 1)
    rows = samples.held_out * samples.levels.shape[1]
    inputs = StudentInputs(states.clone(), between.levels(levels).clone(), prompts)
    return TargetSamples(inputs, teacher, plain, rows, _summarise(samples, rows))


def convert_pictures(
    samples: TeacherSet, models: tuple[Any, Any], vaes: tuple[Any, Any], settings: TeacherSettings
) -> TargetSamples:
    """Convert the teacher's finished pictures to the target's latents and add new noise, at levels spread over the
    target's schedule, or at those of a turbo target's steps. The answer to learn is the picture. models, vaes: of
    source and target."""
    started = time.monotonic()
    target = models[1]
    clean = _convert_latents(samples.denoised(samples.noise)[:, -1], models, vaes)
    sampling = target.get_model_object("model_sampling")
    if settings.target_steps:
        levels = choose_step_levels(settings.target_steps, target, target).expand(len(clean), -1)
    else:
        levels = torch.stack([_spread_levels(index, len(clean), target) for index in range(len(clean))])
    each = levels.shape[1]
    latents = clean.repeat_interleave(each, 0)
    noises: Any = comfy.sample.prepare_noise(latents, settings.seed)
    rows = zip(levels.flatten(), noises, latents, strict=True)
    states = torch.stack([sampling.noise_scaling(level, noise[None], row[None])[0] for level, noise, row in rows])
    held_out = samples.held_out * each
    inputs = StudentInputs(states, levels.flatten(), samples.prompts.repeat_interleave(each))
    account = _summarise(samples, held_out, len(clean), len(states), samples.seconds + time.monotonic() - started)
    return TargetSamples(inputs, latents, None, held_out, account)


def _convert_latents(latents: Tensor, models: tuple[Any, Any], vaes: tuple[Any, Any]) -> Tensor:
    """Clean latents of the source as latents of the target, in each model's own scale. Converts one picture at a
    time."""
    spaces = [model.get_model_object("latent_format") for model in models]
    converted: list[Tensor] = []
    for latent in latents.split(1):
        comfy.model_management.throw_exception_if_processing_interrupted()
        with torch.inference_mode():  # the VAEs' weights were made in it
            picture = vaes[0].decode(spaces[0].process_out(latent))[..., :3]
            frames = picture.reshape(-1, *picture.shape[-3:])  # VAEs of videos give (videos, frames, ...)
            encoded = vaes[1].encode(frames)
            if len(encoded) != 1:
                raise NotMeasurable(
                    f"The teacher's pictures: expected one picture from each sampling, found {len(frames)} frames, "
                    "which the target's VAE encodes one by one. Connect an empty latent of a single frame."
                )
            converted.append(spaces[1].process_in(encoded).float().cpu())
    return torch.cat(converted).clone()


def _spread_levels(index: int, count: int, target: Any) -> Tensor:
    """The noise levels of a picture (_LEVELS), between those of the other pictures."""
    return levels_at(make_schedule(_LEVELS, (index + 0.5) / count)[1:], target, target)


def _summarise(
    samples: TeacherSet, held_out: int, pictures: int = 0, rows: int | None = None, seconds: float | None = None
) -> TeacherRun:
    return TeacherRun(
        from_cache=samples.seconds == 0,
        samplings=len(samples.prompts),
        rows=samples.levels.numel() if rows is None else rows,
        held_out=held_out,
        seconds=samples.seconds if seconds is None else seconds,
        pictures=pictures,
    )
