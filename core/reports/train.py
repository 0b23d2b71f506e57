"""Reports the training of a LoRA on pictures as a sentence and as JSON."""

from dataclasses import dataclass
from typing import Any

from ..refine.parameterisation import Parameterisation
from ..subspace import RankRule
from .envelope import Identity, envelope
from .training_run import TrainingRun


@dataclass(frozen=True, kw_only=True)
class TrainReport(TrainingRun):
    """A training on pictures. base: the model that was trained on. start: the LoRA that was trained further, None for a
    new one. rule: of the base's singular directions. directions: k by layer; empty for a plain LoRA. pictures: their
    number; held_out: how many of them only the score saw."""

    base: Identity
    start: Identity | None
    parameterisation: Parameterisation
    rule: RankRule
    directions: dict[str, int]
    pictures: int
    held_out: int

    @property
    def source(self) -> Identity:
        return self.base

    @property
    def target(self) -> Identity:
        return self.base

    @property
    def adapter(self) -> Identity | None:
        return self.start

    def title(self) -> tuple[str, tuple[str, ...]]:
        return f"Trained ({self.parameterisation})", (self.base.name,)

    def meaning_of_score(self) -> str:
        return f"score: the share of the loss without the LoRA that is gone, on {self._scored_on()}"

    def sentence(self) -> str:
        cost = f"{len(self.losses)} steps on {self.pictures} pictures, {self.seconds:.0f} s; {self.ended}"
        if self.best_step == 0:
            output = "an empty LoRA" if self.start is None else "the LoRA unchanged"
            return f"not improved: no step was better than the start; the output is {output} ({cost})"
        start = "" if self.start is None else f"; it was {self.before:.1%} below it at the start"
        return (
            f"the loss on {self._scored_on()} is {self.best:.1%} below the model's own after {self.best_step} "
            f"steps{start} ({cost})"
        )

    def as_json(self) -> dict[str, Any]:
        return envelope(
            self,
            "train",
            start=None if self.start is None else vars(self.start),
            parameterisation=self.parameterisation,
            rank_rule=vars(self.rule),
            directions=self.directions,
            pictures=self.pictures,
            held_out=self.held_out,
            **self.figures(),
        )

    def _scored_on(self) -> str:
        if self.held_out:
            return f"{self.held_out} pictures that were not trained on"
        return "the same pictures with other noise"
