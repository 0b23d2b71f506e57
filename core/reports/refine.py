"""The account of a refinement: what was taught, learnt and reached, as a sentence and as JSON with a schema version."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..refine.teacher_samples import Match
from .envelope import Identity, dumps, envelope

_WHAT: Mapping[Match, str] = {
    "outputs": "of the way from the bare target to the source with its LoRA",
    "differences": "of the change that the LoRA makes to the source",
}


@dataclass(frozen=True)
class Teaching:
    """Where the lessons came from. kept: from the cache, and no model was asked; rows: noised latents in all, of which
    `held_out` are for the score; pictures: decoded by one autoencoder and encoded by the other, 0 where the models
    share their latents."""

    kept: bool
    samplings: int
    rows: int
    held_out: int
    seconds: float
    pictures: int = 0


@dataclass(frozen=True)
class RefineReport:
    """A whole run. start: what was refined, None from zeros. losses: by step, None where it was no number; scores: by
    the step after which they were taken, 0 is the start. notes: what a reader of the figures should know, such as what
    was done when memory ran out. seconds: of the training."""

    source: Identity
    target: Identity
    adapter: Identity
    start: Identity | None
    settings: Mapping[str, Any]
    match: Match
    teaching: Teaching
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
        """The run in one line, for a person."""
        taught = "lessons kept from before" if self.teaching.kept else f"{self.teaching.seconds:.0f} s of teaching"
        spent = f"{len(self.losses)} steps, {self.seconds:.0f} s; {taught}; {self.ended}"
        if self.best_step == 0:
            given = "an empty LoRA is" if self.start is None else "the LoRA to start from is"
            return (
                f"not improved: no step was better than the start, score {self.before:.2f}; {given} given out ({spent})"
            )
        return (
            f"score {self.before:.2f} at the start, {self.best:.2f} after {self.best_step} steps: the share "
            f"{_WHAT[self.match]} on noised latents that were not trained on ({spent})"
        )

    def as_json(self) -> dict[str, Any]:
        return envelope(
            self,
            "refine",
            start=None if self.start is None else vars(self.start),
            sentence=self.sentence(),
            teaching=vars(self.teaching),
            score={"before": self.before, "best": self.best, "best_step": self.best_step},
            scores=[{"step": step, "score": score} for step, score in self.scores.items()],
            losses=list(self.losses),
            ended=self.ended,
        )

    def dumps(self) -> str:
        """The report as indented JSON text."""
        return dumps(self.as_json())
