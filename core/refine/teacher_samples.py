"""Teacher samples: the noised latents and the predictions that a student learns from (docs/method.md, section 10)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..check import difference
from ..errors import InvalidSetting

Match = Literal["outputs", "differences"]
MATCHES: Mapping[Match, str] = {
    "outputs": "predict what the source with its LoRA predicts; also undoes the drift between the models",
    "differences": "change the prediction as the LoRA changes the source's; keeps the target's style and its drift",
}

SAMPLINGS = 64  # samplings of the teacher; a subtle style gains from more of them (benchmarks/refine)
STEPS_DOWN = 7  # steps of a sampling: few are enough, because the student learns predictions, not finished pictures
_HELD_OUT = 1 / 8  # share of the samplings that the score is measured on


@dataclass(frozen=True)
class TeacherSamples:
    """What the student learns: denoised predictions (n, ...), at noise levels sigma (n).

    The last `held_out` rows are not trained on: they are for the score. bare (held_out, ...): the predictions of the
    target without an adapter for these rows. InvalidSetting unless there are rows of both sorts.
    """

    predictions: Tensor
    levels: Tensor
    held_out: int
    bare: Tensor

    def __post_init__(self) -> None:
        if not 0 < self.held_out < len(self.levels):
            raise InvalidSetting(
                f"Teacher samples: expected rows for training and rows for the score, found {self.held_out} held out "
                f"of {len(self.levels)}. Increase the number of samplings."
            )

    @property
    def gap(self) -> float:
        """The squared error of the bare target on the held-out rows, in the unit of the noise."""
        rows = slice(len(self.levels) - self.held_out, None)
        return float(difference(self.bare, self.predictions[rows], self.levels[rows]).double().square().sum())

    def aims(self, picks: Tensor) -> Tensor:
        return self.predictions[picks]

    def split(self, picks: Tensor, rows: int) -> Sequence[Tensor]:
        return [picks[first : first + rows] for first in range(0, len(picks), rows)]


def count_held_out(samplings: int) -> int:
    """How many of the samplings are held out for the score: at least one."""
    return max(1, round(samplings * _HELD_OUT))


def choose_aims(match: Match, teacher: Tensor, plain: Tensor | None, bare: Tensor | None) -> Tensor:
    """The predictions (n, ...) that the student learns.

    match "outputs": those of the source with its adapter (teacher). match "differences": those of the bare target plus
    the adapter's change on the source, teacher - plain. plain: predictions of the source without its adapter.
    """
    if match == "outputs":
        return teacher
    if plain is None or bare is None:
        raise ValueError("Matching differences needs the predictions of both models without the adapter.")
    return bare + teacher - plain


def make_schedule(steps: int, offset: float) -> list[float]:
    """The steps + 1 noise levels of a sampling as shares of the schedule, from 1 (pure noise) down to the last before
    0.

    offset: in [0, 1), different for each sampling, so that all samplings together cover the schedule evenly.
    """
    return [1.0, *(1 - (step + offset) / steps for step in range(steps))]
