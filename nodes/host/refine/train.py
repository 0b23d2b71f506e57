"""The training itself: core's loop on a student in ComfyUI's sampling, told, shown, and never in vain."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ....core.errors import NotEnoughMemory
from ....core.files import write_new
from ....core.refine.loop import Best, RefineSettings, Step, refine
from ....core.refine.teacher_samples import Lessons
from ..adapter.adapter import Adapter
from ..adapter.save import for_file
from ..card import is_out_of_memory
from ..paths import metadata_allowed, output_place
from ..sampling.conditioning import Prompt
from .bypass import Factors
from .inputs import Desk
from .previews import Previews
from .start import Refinable
from .student import HostStudent, in_host, with_gradients, with_room

_INTERRUPTED = "loras/refine_interrupted"
_SHOWN = 512  # pixels, of a preview on ComfyUI's page


_NONE = Best(0, -math.inf, {})  # before the first score


@dataclass
class Training:
    """made: the adapter of a run's best, given the score at the start."""

    lessons: Lessons
    settings: RefineSettings
    previews: Previews
    made: Callable[[Best, float], Adapter]
    say: Callable[[str], None]
    losses: list[float | None] = field(default_factory=list[float | None])
    scores: dict[int, float] = field(default_factory=dict[int, float])
    notes: tuple[str, ...] = ()
    ended: str = ""
    seconds: float = 0.0
    best: Best = _NONE
    pictures: Tensor | None = None  # what was painted on the way (n, height, width, 3)
    _done: int = 0  # steps of an attempt before this one

    def adapter(self) -> Adapter:
        """The best of the run."""
        return self.made(self.best, self.scores[0])

    def run(self, model: Any, start: Refinable, desk: Desk, prompts: Sequence[Prompt]) -> None:
        """To the end. A run that is cancelled, or for which there is no memory, leaves its best in a file."""
        self._started = time.monotonic()
        self._bar = comfy.utils.ProgressBar(max(1, self.settings.steps))
        factors = with_gradients(start.factors(), model.load_device)

        def attempt(offloading: bool) -> None:
            if offloading:
                self._go_on(factors)
            in_host(model, desk, prompts, factors, self.settings.batch, self._lesson, offloading)

        try:
            with_room(attempt)
            self.seconds = time.monotonic() - self._started
            self.pictures = self.previews.pictures()
        except comfy.model_management.InterruptProcessingException:
            self.say(f"cancelled {self._where()}; {self._saved()}")
            raise
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise NotEnoughMemory(
                f"Refining {self._where()}: expected room for one latent at a time, found none left ({error}). "
                f"{self._saved()} Take a smaller size or rank, or a model in a smaller precision (fp8, GGUF)."
            ) from error

    def _go_on(self, factors: Factors) -> None:
        """From the best so far, for what is left of the steps."""
        self.notes = (*self.notes, "memory ran out: the target's weights stay in main memory (much slower)")
        self._done = len(self.losses)
        with torch.no_grad():
            for name, delta in self.best.deltas.items():
                factors[name][0].copy_(delta.up)
                factors[name][1].copy_(delta.down)

    def _lesson(self, student: HostStudent) -> None:
        left = replace(self.settings, steps=max(0, self.settings.steps - self._done))
        try:
            for step in refine(student, self.lessons, left):
                best = step.best if step.best.step == 0 else replace(step.best, step=step.best.step + self._done)
                self._note(replace(step, number=step.number + self._done, best=best), student)
        finally:
            self.notes = (*self.notes, *student.notes)

    def _note(self, step: Step, student: HostStudent) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if step.best.step > 0 or not self.scores:
            self.best = step.best
        if step.number > len(self.losses):
            self.losses.append(step.loss)
            if step.loss is None:
                self.notes = (
                    *self.notes,
                    f"step {step.number}: the loss was no number; back to the best, half the rate",
                )
        score = step.best.score if not self.scores else step.score
        if score is not None:
            self.scores[step.number] = score
        self.ended = step.ended or self.ended
        picture = self.previews.taken(student) if score is not None else None
        shown = None if picture is None else ("JPEG", picture, _SHOWN)
        self._bar.update_absolute(step.number, max(1, self.settings.steps), shown)
        self.say(self._told(step))

    def _told(self, step: Step) -> str:
        latest = self.scores[max(self.scores)]
        loss = "" if step.loss is None else f", loss {step.loss:.3g}"
        left = ""
        if step.number:
            seconds = (time.monotonic() - self._started) / step.number * (self.settings.steps - step.number)
            left = f", {seconds:.0f} s left"
        return f"step {step.number} of {self.settings.steps}{loss}, score {latest:.2f}{left}"

    def _where(self) -> str:
        if not self.scores:
            return "before the first step"
        reached = len(self.losses) + 1
        return "after all steps" if reached > self.settings.steps else f"at step {reached} of {self.settings.steps}"

    def _saved(self) -> str:
        """The best so far as a file, and the sentence that says so."""
        if self.best.step == 0:
            return "no step had been better than the start, so nothing was saved."
        adapter = self.adapter()
        tensors = for_file(adapter.state_dict(), adapter, "float16")
        path = write_new(*output_place(_INTERRUPTED), tensors, adapter.metadata if metadata_allowed() else None)
        return (
            f"the best so far (step {self.best.step}, score {self.best.score:.2f}) was saved as {path.name} in the "
            "LoRA folder: load it with Load LoRA (Transfer) and connect it as `transferred` to go on."
        )
