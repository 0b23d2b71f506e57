"""Reports a refinement as a sentence and as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..refine.teacher_samples import Match
from .envelope import Identity, dumps, envelope
from .line import Line

_SHARE_OF: Mapping[Match, str] = {
    "outputs": "of the way from the bare target to the source with its LoRA",
    "differences": "of the change that the LoRA makes to the source",
}


@dataclass(frozen=True)
class TeacherRun:
    """Where the teacher samples came from.

    from_cache: they were on disk, and no model ran. rows: the number of noised latents, of which `held_out` are for the
    score. pictures: how many were decoded by one autoencoder and encoded by the other; 0 if the models share their
    latents.
    """

    from_cache: bool
    samplings: int
    rows: int
    held_out: int
    seconds: float
    pictures: int = 0


@dataclass(frozen=True)
class RefineReport:
    """A refinement. start: the LoRA that was refined, None if the run started from zeros. losses: of each step, None if
    not finite. scores: by the step after which they were measured; 0 is the start. ended: why the run ended. notes:
    sentences that explain the figures, such as what changed when memory ran out. seconds: of the training."""

    source: Identity
    target: Identity
    adapter: Identity
    start: Identity | None
    settings: Mapping[str, Any]
    match: Match
    teacher: TeacherRun
    losses: tuple[float | None, ...]
    scores: Mapping[int, float]
    best_step: int
    ended: str
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def before(self) -> float:
        return self.scores[0]

    @property
    def best(self) -> float:
        return self.scores[self.best_step]

    def sentence(self) -> str:
        """The run in one line."""
        samples = "teacher samples from the cache"
        if not self.teacher.from_cache:
            samples = f"teacher samples {self.teacher.seconds:.0f} s"
        cost = f"{len(self.losses)} steps, {self.seconds:.0f} s; {samples}; {self.ended}"
        if self.best_step == 0:
            output = "an empty LoRA" if self.start is None else "the LoRA unchanged"
            return (
                f"not improved: no step was better than the start, score {self.before:.2f}; the output is {output} "
                f"({cost})"
            )
        return (
            f"score {self.before:.2f} at the start, {self.best:.2f} after {self.best_step} steps; the score is the "
            f"share {_SHARE_OF[self.match]}, on noised latents that were not trained on ({cost})"
        )

    def lines(self) -> tuple[Line, ...]:
        """The run as sentences for the node."""
        first = Line.sentence("warn" if self.best_step == 0 else "good", self.sentence())
        return (first, *(Line.sentence("plain", note) for note in self.notes))

    def as_json(self) -> dict[str, Any]:
        return envelope(
            self,
            "refine",
            start=None if self.start is None else vars(self.start),
            sentence=self.sentence(),
            teacher=vars(self.teacher),
            score={"before": self.before, "best": self.best, "best_step": self.best_step},
            scores=[{"step": step, "score": score} for step, score in self.scores.items()],
            losses=list(self.losses),
            ended=self.ended,
        )

    def dumps(self) -> str:
        """The report as indented JSON text."""
        return dumps(self.as_json())
