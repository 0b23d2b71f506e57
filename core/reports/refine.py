"""Reports a refinement as a sentence and as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..refine.teacher_samples import Match
from .envelope import Identity, envelope
from .training_run import TrainingRun

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


@dataclass(frozen=True, kw_only=True)
class RefineReport(TrainingRun):
    """A refinement. start: the LoRA that was refined, None if the run started from zeros."""

    source: Identity
    target: Identity
    adapter: Identity
    start: Identity | None
    match: Match
    teacher: TeacherRun

    def title(self) -> tuple[str, tuple[str, ...]]:
        return "Refined", (self.adapter.name, self.source.name, self.target.name)

    def meaning_of_score(self) -> str:
        share = "gap closed, 1 is all" if self.match == "outputs" else "G, 1 is the same change"
        return f"score on noised latents that were not trained on ({share})"

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

    def as_json(self) -> dict[str, Any]:
        return envelope(
            self,
            "refine",
            start=None if self.start is None else vars(self.start),
            teacher=vars(self.teacher),
            **self.figures(),
        )
