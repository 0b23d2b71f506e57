"""The report of a check: what was measured on both models, as a sentence and as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..check import Agreement, Attempt, Trial, best_of
from .envelope import Identity, dumps, envelope

_FARTHER = -0.01  # a gap closed below this shows as a larger distance when it is written with two digits


@dataclass(frozen=True)
class CheckReport:
    """A whole check. trials: the transferred adapter, then others to compare with, then the plain copy if it fits the
    target. noise_levels: sigma, from much noise to little. notes: what a reader of the figures should know."""

    source: Identity
    target: Identity
    adapter: Identity
    settings: Mapping[str, Any]
    noise_levels: tuple[float, ...]
    trials: tuple[Trial, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def transferred(self) -> Trial:
        return next(trial for trial in self.trials if trial.role == "transferred")

    @property
    def searched(self) -> bool:
        return len(self.transferred.attempts) > 1

    def chosen(self) -> tuple[Trial, Attempt]:
        """The adapter and strength of the best score; without a search the transferred adapter at strength 1."""
        if not self.searched:
            return self.transferred, self.transferred.as_it_is()
        best = best_of(self.trials)
        return best, best.best()

    def sentence(self) -> str:
        """The check in one line, for a person."""
        pooled = self.transferred.as_it_is().pooled
        if pooled.gap_closed is None:  # then it is None for every trial: the gap depends on no adapter
            return f"nothing to transfer: the target already answers like the source with its LoRA ({_figures(pooled)})"
        said = _describe(pooled, pooled.gap_closed)
        for trial in self.trials:
            if trial.role != "transferred":
                said += f"; {trial.label} {_does(trial.as_it_is())}"
        if self.searched:
            trial, attempt = self.chosen()
            said += f"; best of the search: {trial.label} at strength {attempt.strength:g}, which {_does(attempt)}"
            said += _beyond(trial, attempt)
        return said

    def as_json(self) -> dict[str, Any]:
        trial, attempt = self.chosen()
        chosen = {"role": trial.role, "label": trial.label, "strength": attempt.strength, **vars(attempt.pooled)}
        return envelope(
            self,
            "check",
            sentence=self.sentence(),
            chosen=chosen,
            noise_levels=list(self.noise_levels),
            trials=[trial.as_json() for trial in self.trials],
        )

    def dumps(self) -> str:
        """The report as indented JSON text."""
        return dumps(self.as_json())


def _describe(pooled: Agreement, closed: float) -> str:
    if closed < _FARTHER:
        return (
            f"leads away: with the transferred LoRA the target is {_times(closed)} times as far from the source with "
            f"its LoRA as without ({_figures(pooled)})"
        )
    return f"the transferred LoRA closes {_percent(closed)} of the gap to the source with its LoRA ({_figures(pooled)})"


def _does(attempt: Attempt) -> str:
    closed = attempt.pooled.score
    return f"leads away ({_times(closed)} times as far)" if closed < _FARTHER else f"closes {_percent(closed)}"


def _beyond(trial: Trial, attempt: Attempt) -> str:
    """What to say of a best strength at the edge of those that were tried."""
    tried = [one.strength for one in trial.attempts]
    if attempt.strength == min(tried):
        return "; none smaller was tried: one may be better"
    return "; none larger was tried: one may be better" if attempt.strength == max(tried) else ""


def _figures(pooled: Agreement) -> str:
    return f"G {pooled.change_match:.2f}, cosine {pooled.cosine:.2f}"


def _percent(closed: float) -> str:
    return f"{max(0.0, closed):.0%}"


def _times(closed: float) -> str:
    """The distance that is left, as a multiple of that at the start."""
    return f"{(1 - closed) ** 0.5:.2f}"
