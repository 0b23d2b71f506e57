"""What was taught, laid before the target: in its own terms where the models share their latents, else as pictures that
one autoencoder decodes and the other encodes."""

import time
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import torch
from torch import Tensor

from ....core.errors import InvalidSetting, NotMeasurable
from ....core.refine.teacher_samples import Match, way_down
from ....core.reports.refine import Teaching
from ..sampling.noise import latent_space, levels_at, levels_of_steps, noising
from .student import Desk
from .teacher import TeacherSet, TeacherSettings

_LEVELS = 8  # at which each picture is noised


@dataclass(frozen=True)
class Taught:
    """teacher: the denoised predictions to learn from, plain: those of the source without its adapter, None where they
    are not asked for (rows, channels, ...), float32; held_out: rows at the end."""

    desk: Desk
    teacher: Tensor
    plain: Tensor | None
    held_out: int
    account: Teaching

    def first_held_out(self) -> int:
        """The prompt that previews are of."""
        return int(self.desk.prompts[-self.held_out])


def require_teachable(source: Any, target: Any, match: Match, with_vaes: bool) -> None:
    """NotMeasurable where the target cannot be shown what the source sees; InvalidSetting where not in this way."""
    spaces = latent_space(source), latent_space(target)
    if spaces[0] == spaces[1]:
        noising(source, target)
        return
    if match == "differences":
        raise InvalidSetting(
            f"match differences: expected two models of one latent space, found {spaces[0]} and {spaces[1]}, between "
            "which only finished pictures can be carried. Choose match outputs."
        )
    if not with_vaes:
        raise NotMeasurable(
            f"Source and target: expected two models of one latent space, found {spaces[0]} and {spaces[1]}. Connect "
            "the VAE of each as source_vae and target_vae: the lessons are then pictures, decoded by the one and "
            "encoded by the other."
        )


def states_taught(found: TeacherSet, source: Any, target: Any) -> Taught:
    """The teacher's own states and answers."""
    levels = found.levels.flatten()
    between = noising(source, target)
    states = between.states(found.states.float().flatten(0, 1), levels)
    prompts = found.prompts.repeat_interleave(found.levels.shape[1])
    teacher = found.denoised(found.noise).flatten(0, 1)
    plain = None if found.plain is None else found.denoised(found.plain).flatten(0, 1)
    rows = found.held_out * found.levels.shape[1]
    desk = Desk(states.clone(), between.levels(levels).clone(), prompts)
    return Taught(desk, teacher, plain, rows, _account(found, rows))


def pictures_taught(
    found: TeacherSet, source: Any, target: Any, source_vae: Any, target_vae: Any, settings: TeacherSettings
) -> Taught:
    """The teacher's finished pictures, noised afresh at levels spread over the target's schedule, or at those of a
    turbo target's steps; the answer to learn is the picture."""
    started = time.monotonic()
    clean = _carried(found.denoised(found.noise)[:, -1], source, target, source_vae, target_vae)
    sampling = target.get_model_object("model_sampling")
    if settings.target_steps:
        levels = levels_of_steps(settings.target_steps, target, target).expand(len(clean), -1)
    else:
        levels = torch.stack([_spread(index, len(clean), target) for index in range(len(clean))])
    each = levels.shape[1]
    latents = clean.repeat_interleave(each, 0)
    noises: Any = comfy.sample.prepare_noise(latents, settings.seed)
    rows = zip(levels.flatten(), noises, latents, strict=True)
    states = torch.stack([sampling.noise_scaling(level, noise[None], one[None])[0] for level, noise, one in rows])
    held_out = found.held_out * each
    desk = Desk(states, levels.flatten(), found.prompts.repeat_interleave(each))
    account = _account(found, held_out, len(clean), len(states), found.seconds + time.monotonic() - started)
    return Taught(desk, latents, None, held_out, account)


def _carried(latents: Tensor, source: Any, target: Any, source_vae: Any, target_vae: Any) -> Tensor:
    """Clean latents of the source as the target's, one picture at a time, both in the models' own scale."""
    spaces = [model.get_model_object("latent_format") for model in (source, target)]
    carried: list[Tensor] = []
    for latent in latents.split(1):
        comfy.model_management.throw_exception_if_processing_interrupted()
        with torch.inference_mode():  # their weights were made in it
            picture = source_vae.decode(spaces[0].process_out(latent))[..., :3]
            frames = picture.reshape(-1, *picture.shape[-3:])  # autoencoders of films give (films, frames, ...)
            encoded = target_vae.encode(frames)
            if len(encoded) != 1:
                raise NotMeasurable(
                    f"The lessons' pictures: expected one of each sampling, found {len(frames)} frames, which the "
                    "target's VAE encodes one by one. Connect an empty latent of a single frame."
                )
            carried.append(spaces[1].process_in(encoded).float().cpu())
    return torch.cat(carried).clone()


def _spread(index: int, count: int, target: Any) -> Tensor:
    """The levels of one picture (_LEVELS), between those of the others."""
    return levels_at(way_down(_LEVELS, (index + 0.5) / count)[1:], target, target)


def _account(
    found: TeacherSet, held_out: int, pictures: int = 0, rows: int | None = None, seconds: float | None = None
) -> Teaching:
    return Teaching(
        kept=found.seconds == 0,
        samplings=len(found.prompts),
        rows=found.levels.numel() if rows is None else rows,
        held_out=held_out,
        seconds=found.seconds if seconds is None else seconds,
        pictures=pictures,
    )
