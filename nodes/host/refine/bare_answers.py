"""The answers of the target without a LoRA: the score counts from them."""

import math
from typing import Any

import torch

from ....core.errors import NotMeasurable
from ....core.linalg import SAME_ANSWER
from ....core.refine.loop import RefineSettings
from ....core.refine.teacher_samples import TeacherSamples, choose_aims
from ..sampling.conditioning import Prompt
from ..training.predict import explain_failure, predict_rows
from .inputs import TargetSamples


def add_bare_answers(
    target: Any, samples: TargetSamples, prompts: list[Prompt], settings: RefineSettings
) -> TeacherSamples:
    """The teacher samples with the bare target's answers: for all rows to match differences, else only for the rows
    that the score is taken on."""
    rows = len(samples.teacher) if settings.match == "differences" else samples.held_out
    picks = torch.arange(len(samples.teacher) - rows, len(samples.teacher))
    advice = (
        "If the two models have different text encoders, connect the same prompts, encoded by the target's, as "
        "target_conditioning."
    )
    with explain_failure("The target without a LoRA", "The target with its prompts", advice):
        answers = predict_rows(target, samples.inputs, prompts, settings.batch, picks.split, lambda _, rows: rows.cpu())
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
    if math.sqrt(samples.gap / samples.bare.numel()) < SAME_ANSWER:
        raise NotMeasurable(
            "The target already answers like the source with its LoRA. There is nothing to refine: is the LoRA merged "
            "into the target, or does it not change the source?"
        )
