"""The answers of the target without a LoRA: the score counts from them."""

from typing import Any

import torch
from torch import Tensor

from ....core.check import difference
from ....core.errors import NotEnoughMemory, NotMeasurable
from ....core.linalg import SAME_ANSWER
from ....core.refine.loop import RefineSettings
from ....core.refine.teacher_samples import TeacherSamples, choose_aims
from ..card import is_out_of_memory
from ..sampling.conditioning import Prompt
from ..training.student import HostStudent, run_in_host, run_with_room
from .inputs import TargetSamples


def add_bare_answers(
    target: Any, samples: TargetSamples, prompts: list[Prompt], settings: RefineSettings
) -> TeacherSamples:
    """The teacher samples with the bare target's answers: for all rows to match differences, else only for the rows
    that the score is taken on."""
    rows = len(samples.teacher) if settings.match == "differences" else samples.held_out
    picks = torch.arange(len(samples.teacher) - rows, len(samples.teacher))
    answers: list[Tensor] = []

    def attempt(offloading: bool) -> None:
        answers.clear()
        run_in_host(target, samples.inputs, prompts, {}, settings.batch, ask, offloading)

    def ask(student: HostStudent) -> None:
        left = picks
        while len(left):
            part = left[: student.rows_at_once]
            try:
                with torch.no_grad():
                    answers.append(student.predict(part).cpu())
            except RuntimeError as error:
                if not student.use_less_memory(error):
                    raise
                continue
            left = left[len(part) :]

    try:
        run_with_room(attempt)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise NotEnoughMemory(
                f"The target without a LoRA: expected memory for one latent at a time, found too little ({error}). "
                "Choose a smaller size, or a model in a smaller precision (fp8, GGUF)."
            ) from error
        raise NotMeasurable(
            f"The target with its prompts: expected an output, found an error ({error}). If the two models have "
            "different text encoders, connect the same prompts, encoded by the target's, as target_conditioning."
        ) from error
    bare = torch.cat(answers)
    with torch.inference_mode(False):
        aims = choose_aims(
            settings.match, samples.teacher, samples.plain, bare if rows == len(samples.teacher) else None
        )
        result = TeacherSamples(aims, samples.inputs.levels, samples.held_out, bare[-samples.held_out :])
    _require_difference(result)
    return result


def _require_difference(samples: TeacherSamples) -> None:
    """NotMeasurable if the bare target already gives the answers that it should learn."""
    rows = slice(samples.training_rows(), None)
    gap = difference(samples.bare, samples.aims[rows], samples.levels[rows])
    if float(gap.square().mean().sqrt()) < SAME_ANSWER:
        raise NotMeasurable(
            "The target already answers like the source with its LoRA. There is nothing to refine: is the LoRA merged "
            "into the target, or does it not change the source?"
        )
