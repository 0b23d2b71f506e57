"""Refines a transferred adapter: a few dozen gradient steps on its factors, without data (docs/method.md, section 10).

The teacher is the source with its adapter. It also makes the inputs: the noised latents of its own samplings. The
student is the target with the transferred adapter. The two models must have the same latent space; the depth, width and
family of their layers may differ.
"""

# torch's optimisers and its split have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from ..check import difference
from ..delta import LowRankDelta
from ..errors import NotMeasurable
from .contract import Samples, Student
from .parameterisation import Trainable, compute_deltas, copy_trainable, measure_sizes, restore_parameters
from .teacher_samples import Match

Result = TypeVar("Result")

# Adam betas; 0.99 instead of 0.999 because runs are short.
_BETAS = (0.9, 0.99)
_WARM_STEPS = 5
_LAST_RATE = 0.05  # share of the rate at the end of the cosine schedule
_CLIP = 1.0  # largest norm of the gradient
_MIN_RISE = 0.002  # a smaller rise of the score does not count as a rise
_RESTARTS = 3  # from the best factors, each at half the rate, after a loss that is not finite


@dataclass(frozen=True)
class RefineSettings:
    """The settings of a refinement.

    steps: gradient steps. batch: noised latents in a step. rank: of new factors, if the run starts from zeros. rate:
    the share of its size by which a step changes a factor. seed: for the order of the samples. checks: how often the
    score is measured. patience: the run stops after this many checks without a rise; 0 never stops early.
    """

    steps: int = 80
    batch: int = 16
    rank: int = 16
    match: Match = "outputs"
    rate: float = 0.05
    seed: int = 0
    checks: int = 4
    patience: int = 2


@dataclass(frozen=True)
class BestFactors:
    """The deltas with the best score so far, and their step; 0 is the start."""

    step: int
    score: float
    trainable: Trainable

    @cached_property
    def deltas(self) -> Mapping[str, LowRankDelta]:
        """The deltas as plain factors in main memory."""
        return compute_deltas(self.trainable)


@dataclass(frozen=True)
class Step:
    """One step of a run; step 0 is the start, before any training.

    loss: of the batch; None at step 0, or if it is not finite. score: None if it was not measured at this step. ended:
    why the run ended; None unless this is the last step.
    """

    number: int
    loss: float | None
    score: float | None
    best: BestFactors
    ended: str | None = None


def refine(student: Student, samples: Samples, settings: RefineSettings) -> Iterator[Step]:
    """Train the student's parameters in place, step by step. The caller may stop at any step and use the best factors.

    The loss is the mean squared error in the unit of the noise. If it is not finite, training continues from the best
    factors at half the rate. NotMeasurable if the score of the start is not finite.
    """
    run = _Run(student, samples, settings)
    yield run.start()
    while run.ended is None:
        yield run.step()


@dataclass
class _Run:
    student: Student
    samples: Samples
    settings: RefineSettings
    ended: str | None = None
    number: int = 0
    restarts: int = 0
    without_rise: int = 0
    order: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.settings.seed)
        self.sizes = measure_sizes(self.student.trainable)
        self._optimizer = self._new_optimizer()

    def start(self) -> Step:
        score = self._score()
        if not math.isfinite(score):
            raise NotMeasurable(
                "The target's predictions with the LoRA to start from: expected finite numbers, found NaN or infinity. "
                "Load the model in another precision (bf16 or fp32), or start from another LoRA."
            )
        self.best = BestFactors(0, score, copy_trainable(self.student.trainable))
        self.ended = "nothing to do: steps is 0" if self.settings.steps == 0 else None
        return Step(0, None, score, self.best, self.ended)

    def step(self) -> Step:
        self.number += 1
        self._set_rates()
        loss = self._train(self._next_batch())
        score = self._score() if self._is_check_due() and math.isfinite(loss) else None
        if not math.isfinite(loss) or (score is not None and not math.isfinite(score)):
            return self._return_to_best()
        if score is not None:
            self._record_score(score)
        if self.ended is None and self.number == self.settings.steps:
            self.ended = "all steps done"
        return Step(self.number, loss, score, self.best, self.ended)

    def _record_score(self, score: float) -> None:
        has_risen = score > self.best.score + _MIN_RISE
        self.without_rise = 0 if has_risen else self.without_rise + 1
        if score > self.best.score:
            self.best = BestFactors(self.number, score, copy_trainable(self.student.trainable))
        if self.settings.patience and self.without_rise >= self.settings.patience:
            self.ended = f"the score has not risen for {self.without_rise} checks"

    def _return_to_best(self) -> Step:
        self.restarts += 1
        if self.restarts > _RESTARTS:
            self.ended = f"the loss was not finite {self.restarts} times, each time at half the rate"
        restore_parameters(self.student.trainable, self.best.trainable)
        self._optimizer = self._new_optimizer()
        if self.ended is None and self.number == self.settings.steps:
            self.ended = "all steps done"
        return Step(self.number, None, None, self.best, self.ended)

    def _train(self, picks: Tensor) -> float:
        loss = self._retry_with_less_memory(lambda: self._backward(picks))
        if math.isfinite(loss):
            torch.nn.utils.clip_grad_norm_(self._parameters(), _CLIP, error_if_nonfinite=False)
            self._optimizer.step()
        return float(loss)

    def _retry_with_less_memory(self, work: Callable[[], Result]) -> Result:
        """Run the work, and run it again whenever the student could reduce its memory."""
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not self.student.use_less_memory(error):
                    raise

    def _backward(self, picks: Tensor) -> float:
        """Compute the gradients of a whole batch. Returns its loss."""
        self._optimizer.zero_grad()
        parts = self.samples.split(picks, self.student.rows_at_once)
        return sum(self._backward_part(part, len(picks)) for part in parts)

    def _backward_part(self, picks: Tensor, batch_size: int) -> float:
        """Add the gradients of a part of a batch. Returns its share of the loss."""
        loss = self._error(picks).square().flatten(1).mean(1).sum() / batch_size
        loss.backward()
        return float(loss.detach())

    def _error(self, picks: Tensor) -> Tensor:
        """The student's error in rows of the same shape, in the unit of the noise."""
        predictions = self.student.predict(picks).float()  # half precision would round small remaining errors to zero
        aims, levels = self.samples.aims(picks), self.samples.levels[picks]
        return difference(predictions, aims.to(predictions), levels.to(predictions))

    def _score(self) -> float:
        """1 - ||student - aim||^2 / ||bare - aim||^2 on the held-out rows: gap closed or G, as in core/check.py."""
        return 1 - self._retry_with_less_memory(self._remaining) / max(self.samples.gap, 1e-30)

    def _remaining(self) -> float:
        rows = len(self.samples.levels)
        held_out = torch.arange(rows - self.samples.held_out, rows)
        with torch.no_grad():
            parts = self.samples.split(held_out, self.student.rows_at_once)
            return sum(float(self._error(part).cpu().double().square().sum()) for part in parts)

    def _is_check_due(self) -> bool:
        """Checks are spread evenly over the steps; the last one is at the last step."""
        step, steps, checks = self.number, self.settings.steps, self.settings.checks
        return step * checks // steps > (step - 1) * checks // steps

    def _next_batch(self) -> Tensor:
        """The rows of the next batch; each row is used once before any is used again."""
        training_rows = len(self.samples.levels) - self.samples.held_out
        while len(self.order) < self.settings.batch:
            self.order += torch.randperm(training_rows, generator=self.generator).tolist()
        batch, self.order = self.order[: self.settings.batch], self.order[self.settings.batch :]
        return torch.tensor(batch)

    def _new_optimizer(self) -> torch.optim.Adam:
        """Each parameter has a group of its own, because its rate is a share of its size."""
        groups = [{"params": [parameter]} for parameter in self._parameters()]
        return torch.optim.Adam(groups, lr=0.0, betas=_BETAS)

    def _parameters(self) -> list[Tensor]:
        return [parameter for delta in self.student.trainable.values() for parameter in delta.parameters]

    def _set_rates(self) -> None:
        done = (self.number - 1) / self.settings.steps
        share = min(1.0, self.number / _WARM_STEPS) * (_LAST_RATE + (1 - _LAST_RATE) * math.cos(done * math.pi / 2))
        rate = self.settings.rate * share * 0.5**self.restarts
        for group, size in zip(self._optimizer.param_groups, self.sizes, strict=True):
            group["lr"] = rate * size
