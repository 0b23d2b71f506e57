"""What the reports of all trainings share: losses, scores, and how the run ended."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .envelope import dumps
from .line import Line


@dataclass(frozen=True, kw_only=True)
class TrainingRun(ABC):
    """A training. losses: of each step, None if not finite. scores: by the step after which they were measured; 0 is
    the start. ended: why the run ended. notes: sentences that explain the figures, such as what changed when memory ran
    out. seconds: of the training."""

    settings: Mapping[str, Any]
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

    @abstractmethod
    def sentence(self) -> str:
        """The run in one line."""

    @abstractmethod
    def title(self) -> tuple[str, tuple[str, ...]]:
        """What was done, and the names of the models and adapters in it."""

    @abstractmethod
    def meaning_of_score(self) -> str:
        """What the score is measured on, and what 1 means, for the legend of the picture."""

    @abstractmethod
    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""

    def dumps(self) -> str:
        """The report as indented JSON text."""
        return dumps(self.as_json())

    def lines(self) -> tuple[Line, ...]:
        """The run as sentences for the node."""
        first = Line.sentence("warn" if self.best_step == 0 else "good", self.sentence())
        return (first, *(Line.sentence("plain", note) for note in self.notes))

    def figures(self) -> dict[str, Any]:
        """The fields of the JSON that all trainings have."""
        return {
            "sentence": self.sentence(),
            "score": {"before": self.before, "best": self.best, "best_step": self.best_step},
            "scores": [{"step": step, "score": score} for step, score in self.scores.items()],
            "losses": list(self.losses),
            "ended": self.ended,
        }
