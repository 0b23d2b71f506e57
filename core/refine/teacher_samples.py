"""What a student is to learn from its teacher: lessons for core.refine (docs/method.md, section 10)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..errors import InvalidSetting

Match = Literal["outputs", "differences"]
MATCHES: Mapping[Match, str] = {
    "outputs": "answer as the source with its LoRA answers; undoes the drift between the models too",
    "differences": "change your answer as the LoRA changes the source's; keeps the target's own manner, and its drift",
}

SAMPLINGS = 64  # that the teacher makes: more of them bring a subtle style further (benchmarks/refine)
STEPS_DOWN = 7  # of each: what is learnt is how to answer on the way, not a finished picture
_HELD_OUT = 1 / 8  # of the samplings: what the score is taken on


@dataclass(frozen=True)
class TeacherSamples:
    """What the student is to answer: aims, denoised predictions (n, ...) at sigma levels (n).

    The last `held_out` are never trained on: the score is taken there, against `bare` (held_out, ...), the target's
    answers without any adapter.
    """

    aims: Tensor
    levels: Tensor
    held_out: int
    bare: Tensor

    def __post_init__(self) -> None:
        if not 0 < self.held_out < len(self.levels):
            raise InvalidSetting(
                f"Lessons for Refine: expected some to train on and some held out for the score, found {self.held_out} "
                f"held out of {len(self.levels)}. Ask for more samplings."
            )

    def training_rows(self) -> int:
        return len(self.levels) - self.held_out


def count_held_out(samplings: int) -> int:
    """How many of the samplings are kept for the score: at least one."""
    return max(1, round(samplings * _HELD_OUT))


def choose_aims(match: Match, teacher: Tensor, plain: Tensor | None, bare: Tensor | None) -> Tensor:
    """What the student is to answer (n, ...): the source's answer with its adapter, or the bare target's plus what the
    adapter changes in the source's. plain: the source's answer without."""
    if match == "outputs":
        return teacher
    if plain is None or bare is None:
        raise ValueError("To match differences takes the answers of both models without the adapter.")
    return bare + teacher - plain


def make_schedule(steps: int, offset: float) -> list[float]:
    """Noise levels of a sampling as shares of the schedule, from 1 (all noise) down to the last before 0: steps + 1 of
    them. Another offset in [0, 1) for each sampling, and together they are everywhere on the schedule."""
    return [1.0, *(1 - (step + offset) / steps for step in range(steps))]
