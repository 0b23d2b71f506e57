"""Reports a check as a sentence and as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..check import Agreement, Attempt, Trial, best_trial
from .envelope import Identity, dumps, envelope
from .line import Line, Tone

_FARTHER = -0.01  # below this gap closed, the distance is visibly larger when written with two digits


@dataclass(frozen=True)
class CheckReport:
    """A check. trials: the transferred adapter, then others to compare with, then the plain copy if it fits the target.
    noise_levels: sigma, from high to low. notes: sentences that explain the figures."""

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
        """The trial and attempt with the best score; without a search the transferred adapter at strength 1."""
        if not self.searched:
            return self.transferred, self.transferred.at_strength_one()
        best = best_trial(self.trials)
        return best, best.best_attempt()

    def sentence(self) -> str:
        """The check in one line."""
        pooled = self.transferred.at_strength_one().pooled
        if pooled.gap_closed is None:  # then it is None for every trial: the gap does not depend on the adapter
            return f"nothing to transfer: the target already answers like the source with its LoRA ({_figures(pooled)})"
        text = _describe(pooled, pooled.gap_closed)
        for trial in self.trials:
            if trial.role != "transferred":
                text += f"; {trial.label} {_result(trial.at_strength_one())}"
        if self.searched:
            trial, attempt = self.chosen()
            text += f"; best of the search: {trial.label} at strength {attempt.strength:g}, which {_result(attempt)}"
            text += _hint_at_edge(trial, attempt)
        return text

    def lines(self) -> tuple[Line, ...]:
        """The check as sentences for the node."""
        gap_closed = self.transferred.at_strength_one().pooled.gap_closed
        tone: Tone = "plain" if gap_closed is None else "bad" if gap_closed < _FARTHER else "good"
        first, *others = self.sentence().split("; ")
        texts = *others, *self.notes
        return (Line.sentence(tone, first), *(Line.sentence("plain", text) for text in texts))

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


def _describe(pooled: Agreement, gap_closed: float) -> str:
    if gap_closed < _FARTHER:
        return (
            f"leads away: with the transferred LoRA the target is {_distance_ratio(gap_closed)} times as far from the "
            f"source with its LoRA as without ({_figures(pooled)})"
        )
    closed = f"the transferred LoRA closes {_percent(gap_closed)} of the gap to the source with its LoRA"
    return f"{closed} ({_figures(pooled)})"


def _result(attempt: Attempt) -> str:
    gap_closed = attempt.pooled.score
    if gap_closed < _FARTHER:
        return f"leads away ({_distance_ratio(gap_closed)} times as far)"
    return f"closes {_percent(gap_closed)}"


def _hint_at_edge(trial: Trial, attempt: Attempt) -> str:
    """A hint if the best strength is the smallest or largest that was tried."""
    tried = [tried_attempt.strength for tried_attempt in trial.attempts]
    if attempt.strength == min(tried):
        return "; a smaller strength was not tried and may be better"
    return "; a larger strength was not tried and may be better" if attempt.strength == max(tried) else ""


def _figures(pooled: Agreement) -> str:
    return f"G {pooled.change_match:.2f}, cosine {pooled.cosine:.2f}"


def _percent(gap_closed: float) -> str:
    return f"{max(0.0, gap_closed):.0%}"


def _distance_ratio(gap_closed: float) -> str:
    """The remaining distance divided by the distance without the adapter."""
    return f"{(1 - gap_closed) ** 0.5:.2f}"
