"""Refine: a few dozen gradient steps on a carried adapter's factors, without data (docs/method.md, section 10).

The source with its adapter is the teacher, and makes the inputs itself: noised latents on the way of its own samplings.
The student is the target with the carried adapter. Only the two latent spaces must be one: depth, width and family of
the layers do not matter. Not training-free, and named for what it is.
"""

# torch's optimisers and its split have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ..check import difference
from ..delta import LowRankDelta
from ..errors import NotMeasurable
from .teacher_samples import Match, TeacherSamples
from .trainable import Factors, copy_factors, measure_sizes

_T = TypeVar("_T")

# Adam's, of every training of a diffusion model here and elsewhere but for the second: few steps must be followed fast.
_BETAS = (0.9, 0.99)
_WARM_STEPS = 5
_LAST_RATE = 0.05  # share of the rate that is left at the end of the cosine
_CLIP = 1.0  # norm of the gradient
_RISES = 0.002  # of the score, below which it counts as not risen
_RESTARTS = 3  # from the best, each at half the rate, when the loss is no number


@dataclass(frozen=True)
class RefineSettings:
    """steps: gradient steps; batch: noised latents a step; rank: of the factors where there are none to start from;
    rate: the share of its size by which a step changes a factor; checks: how often the score is taken; patience: checks
    without a rise after which to stop; 0 never stops early."""

    steps: int = 80
    batch: int = 16
    rank: int = 16
    match: Match = "outputs"
    rate: float = 0.05
    seed: int = 0
    checks: int = 4
    patience: int = 2


class Student(Protocol):
    """The target with trainable factors."""

    @property
    def factors(self) -> Factors: ...

    def predict(self, picks: Tensor) -> Tensor:
        """Its denoised predictions for these rows of the lessons, with gradients where torch keeps them."""
        ...

    @property
    def rows_at_once(self) -> int:
        """How many rows fit into memory at once."""
        ...

    def use_less_memory(self, error: RuntimeError) -> bool:
        """After an error within a step or a score: whether to try it anew, because it now takes less."""
        ...


@dataclass(frozen=True)
class Best:
    """The factors of the best score so far, and the step that they are from; 0 is the start."""

    step: int
    score: float
    deltas: Mapping[str, LowRankDelta]


@dataclass(frozen=True)
class Step:
    """One step of a run; the first is 0, before any. loss: of the batch, None at 0; score: where it was taken; ended:
    the reason, in the last step."""

    number: int
    loss: float | None
    score: float | None
    best: Best
    ended: str | None = None


def refine(student: Student, lessons: TeacherSamples, settings: RefineSettings) -> Iterator[Step]:
    """Train the student's factors in place, step by step; whoever iterates may stop at any step and keep its best.

    The loss is the mean squared error in the unit of the noise. A loss that is no number goes back to the best at half
    the rate. NotMeasurable where the start's score is none.
    """
    run = _Run(student, lessons, settings)
    yield run.started()
    while run.ended is None:
        yield run.stepped()


@dataclass
class _Run:
    student: Student
    lessons: TeacherSamples
    settings: RefineSettings
    ended: str | None = None
    number: int = 0
    restarts: int = 0
    without_rise: int = 0
    order: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.settings.seed)
        self.sizes = measure_sizes(self.student.factors)
        self._optimizer = self._fresh_optimizer()

    def started(self) -> Step:
        score = self._score()
        if not math.isfinite(score):
            raise NotMeasurable(
                "The target's answers with the LoRA to start from: expected finite numbers, found NaN or infinity. "
                "Load the model in another precision (bf16 or fp32), or start from another LoRA."
            )
        self.best = Best(0, score, copy_factors(self.student.factors))
        self.ended = "nothing to do: 0 steps were asked for" if self.settings.steps == 0 else None
        return Step(0, None, score, self.best, self.ended)

    def stepped(self) -> Step:
        self.number += 1
        self._set_rates()
        loss = self._train(self._picks())
        score = self._score() if self._due() and math.isfinite(loss) else None
        if not math.isfinite(loss) or (score is not None and not math.isfinite(score)):
            return self._back_to_best()
        if score is not None:
            self._judge(score)
        if self.ended is None and self.number == self.settings.steps:
            self.ended = "all steps done"
        return Step(self.number, loss, score, self.best, self.ended)

    def _judge(self, score: float) -> None:
        risen = score > self.best.score + _RISES
        self.without_rise = 0 if risen else self.without_rise + 1
        if score > self.best.score:
            self.best = Best(self.number, score, copy_factors(self.student.factors))
        if self.settings.patience and self.without_rise >= self.settings.patience:
            self.ended = f"the score has not risen for {self.without_rise} checks"

    def _back_to_best(self) -> Step:
        self.restarts += 1
        if self.restarts > _RESTARTS:
            self.ended = f"the loss was no number {self.restarts} times, at smaller and smaller rates"
        with torch.no_grad():
            for name, (up, down) in self.student.factors.items():
                up.copy_(self.best.deltas[name].up)
                down.copy_(self.best.deltas[name].down)
        self._optimizer = self._fresh_optimizer()
        if self.ended is None and self.number == self.settings.steps:
            self.ended = "all steps done"
        return Step(self.number, None, None, self.best, self.ended)

    def _train(self, picks: Tensor) -> float:
        loss = self._within_memory(lambda: self._batch(picks))
        if math.isfinite(loss):
            torch.nn.utils.clip_grad_norm_(
                [one for pair in self.student.factors.values() for one in pair], _CLIP, error_if_nonfinite=False
            )
            self._optimizer.step()
        return float(loss)

    def _within_memory(self, work: Callable[[], _T]) -> _T:
        """The work, from its beginning each time that the student has found a way to take less."""
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not self.student.use_less_memory(error):
                    raise

    def _batch(self, picks: Tensor) -> float:
        """Gradients of a whole batch; its loss."""
        self._optimizer.zero_grad()
        return sum(self._gradients(part, len(picks)) for part in picks.split(self.student.rows_at_once))

    def _gradients(self, picks: Tensor, of: int) -> float:
        """Adds the gradients of a part of a batch; its part of the loss."""
        aims, levels = self.lessons.aims[picks], self.lessons.levels[picks]
        answers = self.student.predict(picks).float()  # half precision would round what is left to learn away
        error = difference(answers, aims.to(answers), levels.to(answers))
        loss = error.square().flatten(1).mean(1).sum() / of
        loss.backward()
        return float(loss.detach())

    def _score(self) -> float:
        """1 - ||student - aim||^2 / ||bare - aim||^2 on what was held out: closed, or G, of core.arrival."""
        kept = torch.arange(self.lessons.training_rows(), len(self.lessons.levels))
        levels = self.lessons.levels[kept]
        answers = self._within_memory(lambda: self._answers(kept))
        left = difference(answers, self.lessons.aims[kept], levels).double().square().sum()
        way = difference(self.lessons.bare, self.lessons.aims[kept], levels).double().square().sum()
        return float(1 - left / way.clamp(min=1e-30))

    def _answers(self, picks: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat(
                [self.student.predict(part).float().cpu() for part in picks.split(self.student.rows_at_once)]
            )

    def _due(self) -> bool:
        """The score is taken evenly spread over the steps, and at the last."""
        at, steps = self.number, self.settings.steps
        return at * self.settings.checks // steps > (at - 1) * self.settings.checks // steps

    def _picks(self) -> Tensor:
        """The next batch: every lesson once before any comes again."""
        while len(self.order) < self.settings.batch:
            self.order += torch.randperm(self.lessons.training_rows(), generator=self.generator).tolist()
        batch, self.order = self.order[: self.settings.batch], self.order[self.settings.batch :]
        return torch.tensor(batch)

    def _fresh_optimizer(self) -> torch.optim.Adam:
        """Each factor is a group of its own: its rate is a share of its own size."""
        groups = [{"params": [one]} for pair in self.student.factors.values() for one in pair]
        return torch.optim.Adam(groups, lr=0.0, betas=_BETAS)

    def _set_rates(self) -> None:
        done = (self.number - 1) / self.settings.steps
        share = min(1.0, self.number / _WARM_STEPS) * (_LAST_RATE + (1 - _LAST_RATE) * math.cos(done * math.pi / 2))
        rate = self.settings.rate * share * 0.5**self.restarts
        for group, size in zip(self._optimizer.param_groups, self.sizes, strict=True):
            group["lr"] = rate * size
