"""Runs core's training loop inside ComfyUI's sampler: reports progress, shows previews, and saves the best factors when
the run is cut short."""

import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import comfy.model_management
import comfy.utils
from torch import Tensor

from ....core.delta import LowRankDelta
from ....core.errors import LoraTransferError, NotEnoughMemory, RefineStopped
from ....core.refine.contract import Samples
from ....core.refine.loop import BestFactors, RefineSettings, Step, refine
from ....core.refine.parameterisation import Trainable, copy_trainable, require_gradients, restore_parameters
from ....core.reports.training_run import TrainingRun
from ..adapter.adapter import Adapter
from ..card import is_out_of_memory
from ..sampling.conditioning import Prompt
from .previews import Previews
from .save_interrupted import save_in_any_folder
from .student import HostStudent, Inputs, run_in_host, run_with_room

ReportT = TypeVar("ReportT", bound=TrainingRun)

_SHOWN = 512  # pixels, of a preview on ComfyUI's page
_NO_BEST = BestFactors(0, -math.inf, {})  # before the first score


@dataclass(frozen=True)
class TrainingResult(Generic[ReportT]):
    """adapter: the trained LoRA, or the start if no step was better; pictures: previews (n, height, width, 3);
    saving_on_error: a context in which any error saves the adapter before it is raised again."""

    adapter: Adapter
    report: ReportT
    pictures: Tensor | None
    saving_on_error: Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Wording:
    """How a kind of training is called. doing: in messages, such as "Refining"; file: the name of the file that an
    interrupted run saves."""

    doing: str
    file: str


REFINING, TRAINING = Wording("Refining", "refine_interrupted"), Wording("Training", "training_interrupted")


@dataclass
class Training:
    """make_adapter: makes an adapter of the best factors and the score at the start; tensors: makes its tensors."""

    samples: Samples
    settings: RefineSettings
    previews: Previews
    make_adapter: Callable[[BestFactors, float], Adapter]
    tensors: Callable[[Mapping[str, LowRankDelta]], dict[str, Tensor]]
    say: Callable[[str], None]
    wording: Wording = REFINING
    losses: list[float | None] = field(default_factory=list[float | None])
    scores: dict[int, float] = field(default_factory=dict[int, float])
    notes: tuple[str, ...] = ()
    ended: str = ""
    seconds: float = 0.0
    best: BestFactors = _NO_BEST
    pictures: Tensor | None = None  # previews (n, height, width, 3)
    _done: int = 0  # steps of an earlier attempt

    def adapter(self) -> Adapter:
        """The adapter with the best factors."""
        return self.make_adapter(self.best, self.scores[0])

    def run(self, model: Any, trainable: Trainable, inputs: Inputs, prompts: Sequence[Prompt]) -> None:
        """Train to the end. If an error or the user stops the run, its best factors are saved to a file."""
        self._started = time.monotonic()
        self._bar = comfy.utils.ProgressBar(max(1, self.settings.steps))
        self._trainable = require_gradients(trainable, model.load_device)

        def attempt(offloading: bool) -> None:
            if offloading:
                self._resume_from_best()
            run_in_host(model, inputs, prompts, self._trainable, self.settings.batch, self._train, offloading)

        with self.saving_on_error():
            run_with_room(attempt)
            self.seconds = time.monotonic() - self._started
            self.pictures = self.previews.pictures()

    @contextmanager
    def saving_on_error(self) -> Iterator[None]:
        """A context that saves the best factors before any error leaves it, and says where they are."""
        try:
            yield
        except LoraTransferError as error:
            if not self.losses:
                raise
            raise self._explain(error) from error
        except Exception as error:  # of any type: a lost device, the allocator, another pack; all lose the training
            raise self._explain(error) from error
        except BaseException:  # cancelled in ComfyUI, or Ctrl-C
            self.say(f"cancelled {self._describe_progress()}; {self._save_best()}")
            raise

    def _explain(self, error: Exception) -> LoraTransferError:
        """The error with a note on where the best factors are. The frames of its traceback are cleared, because they
        hold a step's tensors."""
        saved = self._save_best()
        traceback.clear_frames(error.__traceback__)
        if is_out_of_memory(error):
            stopped = NotEnoughMemory(
                f"{self.wording.doing} {self._describe_progress()}: expected memory for one latent at a time, found "
                f"too little ({error}); {saved} Choose a smaller size or rank, or a model in a smaller precision (fp8, "
                "GGUF)."
            )
        elif isinstance(error, LoraTransferError):
            stopped = type(error)(f"{self.wording.doing} {self._describe_progress()}: {error} In the meantime {saved}")
        else:
            text = f"{type(error).__name__}: {error}".removesuffix(": ")
            stopped = RefineStopped(
                f"{self.wording.doing} {self._describe_progress()} ended with an error ({text}); {saved}"
            )
        self.say(str(stopped))
        return stopped

    def _resume_from_best(self) -> None:
        """Start again from the best factors, for the remaining steps."""
        self.notes = (*self.notes, "memory ran out: the target's weights stay in main memory (much slower)")
        self._done = len(self.losses)
        restore_parameters(self._trainable, self.best.trainable)

    def _train(self, student: HostStudent) -> None:
        left = replace(self.settings, steps=max(0, self.settings.steps - self._done))
        try:
            for step in refine(student, self.samples, left):
                best = step.best if step.best.step == 0 else replace(step.best, step=step.best.step + self._done)
                self._record(replace(step, number=step.number + self._done, best=best), student)
        finally:
            self.notes = (*self.notes, *student.notes)

    def _record(self, step: Step, student: HostStudent) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if step.best.step > 0 or not self.scores:
            self.best = step.best
        if step.number > len(self.losses):
            self.losses.append(step.loss)
            if step.loss is None:
                self.notes = (
                    *self.notes,
                    f"step {step.number}: the loss was not a number; went back to the best factors at half the rate",
                )
        score = step.best.score if not self.scores else step.score
        if score is not None:
            self.scores[step.number] = score
        self.ended = step.ended or self.ended
        picture = self.previews.sample(student) if score is not None else None
        shown = None if picture is None else ("JPEG", picture, _SHOWN)
        self._bar.update_absolute(step.number, max(1, self.settings.steps), shown)
        self.say(self._describe_step(step))

    def _describe_step(self, step: Step) -> str:
        latest = self.scores[max(self.scores)]
        loss = "" if step.loss is None else f", loss {step.loss:.3g}"
        left = ""
        if step.number:
            seconds = (time.monotonic() - self._started) / step.number * (self.settings.steps - step.number)
            left = f", {seconds:.0f} s left"
        return f"step {step.number} of {self.settings.steps}{loss}, score {latest:.2f}{left}"

    def _describe_progress(self) -> str:
        if not self.scores:
            return "before the first step"
        reached = len(self.losses) + 1
        finished = self.ended or reached > self.settings.steps
        return "after all steps" if finished else f"at step {reached} of {self.settings.steps}"

    def _save_best(self) -> str:
        """Save the best factors. Returns a sentence that says where they are."""
        best = self._choose_factors()
        if best is None:
            return "no step was better than the start, so nothing was saved."
        if best is self.best:
            what = f"the best so far (step {best.step}, score {best.score:.2f}) was"
        else:
            what = f"the factors after step {best.step}, which have no score yet, were"
        saved = save_in_any_folder(self._to_adapter(best), self.wording.file)
        return f"{what} {saved}. Load the file with Load LoRA (Transfer) and connect it as `transferred` to go on."

    def _choose_factors(self) -> BestFactors | None:
        """The best factors; before the second score, the current factors, which have no score yet."""
        if self.best.step > 0:
            return self.best
        if not self.losses or len(self.scores) > 1:
            return None
        try:
            best = BestFactors(len(self.losses), math.nan, copy_trainable(self._trainable))
            deltas = best.deltas
        except RuntimeError:  # a lost device: the factors on it are lost too
            return None
        finite = all(bool(factor.isfinite().all()) for delta in deltas.values() for factor in (delta.up, delta.down))
        return best if finite else None

    def _to_adapter(self, best: BestFactors) -> Adapter:
        try:
            return self.make_adapter(best, self.scores[0])
        except Exception:  # noqa: BLE001  (broken metadata are no reason to lose the factors)
            return Adapter("the LoRA of an interrupted run", "", {}, tensors=self.tensors(best.deltas))
