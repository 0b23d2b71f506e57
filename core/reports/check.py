"""The account of a check: what was measured on both models, as a sentence and as JSON with a schema version."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..check import Agreement, Arrival, Trial, best_of
from .envelope import Identity, dumps, envelope

_FARTHER = -0.01  # closed below which the distance itself, written to two digits, has grown


@dataclass(frozen=True)
class ArrivalReport:
    """A whole check. trials: the projected adapter, then others to compare with, then the plain copy where it fits the
    target at all. noise_levels: sigma, from much noise to little. notes: what a reader of the figures should know."""

    source: Identity
    target: Identity
    adapter: Identity
    settings: Mapping[str, Any]
    noise_levels: tuple[float, ...]
    trials: tuple[Trial, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def projected(self) -> Trial:
        return next(trial for trial in self.trials if trial.role == "projected")

    @property
    def searched(self) -> bool:
        return len(self.projected.arrivals) > 1

    def chosen(self) -> tuple[Trial, Arrival]:
        """The adapter and strength of the best score; without a search the projected one as it is."""
        if not self.searched:
            return self.projected, self.projected.as_it_is()
        best = best_of(self.trials)
        return best, best.best()

    def sentence(self) -> str:
        """The check in one line, for a person."""
        pooled = self.projected.as_it_is().pooled
        if pooled.closed is None:  # it is so for every trial: no adapter is in the distance to close
            return f"nothing to carry: the target already answers as the source with its LoRA does ({_figures(pooled)})"
        said = _carried(pooled, pooled.closed)
        for trial in self.trials:
            if trial.role != "projected":
                said += f"; {trial.label} {_does(trial.as_it_is())}"
        if self.searched:
            trial, arrival = self.chosen()
            said += f"; best of the search: {trial.label} at strength {arrival.strength:g}, which {_does(arrival)}"
            said += _beyond(trial, arrival)
        return said

    def as_json(self) -> dict[str, Any]:
        trial, arrival = self.chosen()
        chosen = {"role": trial.role, "label": trial.label, "strength": arrival.strength, **vars(arrival.pooled)}
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


def _carried(pooled: Agreement, closed: float) -> str:
    if closed < _FARTHER:
        return (
            f"leads away: with the carried LoRA the target is {_times(closed)} times as far from the source with its "
            f"LoRA as without ({_figures(pooled)})"
        )
    covered = f"the carried LoRA covers {_percent(closed)} of the way from the bare target to the source with its LoRA"
    return f"{covered} ({_figures(pooled)})"


def _does(arrival: Arrival) -> str:
    closed = arrival.pooled.score
    return f"leads away ({_times(closed)} times as far)" if closed < _FARTHER else f"covers {_percent(closed)}"


def _beyond(trial: Trial, arrival: Arrival) -> str:
    """What to say of a best strength at the edge of those that were tried."""
    tried = [one.strength for one in trial.arrivals]
    if arrival.strength == min(tried):
        return "; none smaller was tried: one may be better"
    return "; none larger was tried: one may be better" if arrival.strength == max(tried) else ""


def _figures(pooled: Agreement) -> str:
    return f"G {pooled.arrived:.2f}, cosine {pooled.cosine:.2f}"


def _percent(closed: float) -> str:
    return f"{max(0.0, closed):.0%}"


def _times(closed: float) -> str:
    """The distance that is left, as a multiple of that at the start."""
    return f"{(1 - closed) ** 0.5:.2f}"
