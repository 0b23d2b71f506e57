"""The account of a check: what was measured on both models, as a sentence and as JSON with a schema version."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .arrival import Agreement, Arrival, Trial, best_of
from .report import SCHEMA, Identity
from .version import VERSION


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
        """The adapter and strength of which most arrives; without a search the projected one as it is."""
        if not self.searched:
            return self.projected, self.projected.as_it_is()
        best = best_of(self.trials)
        return best, best.best()

    def sentence(self) -> str:
        """The check in one line, for a person."""
        said = _arrived(self.projected.as_it_is().pooled)
        for trial in self.trials:
            if trial.role != "projected":
                said += f"; {_brought(trial.label, trial.as_it_is().pooled)}"
        if self.searched:
            trial, arrival = self.chosen()
            said += f"; best of the search: {trial.label} at strength {arrival.strength:g}, "
            said += f"of which {_percent(arrival.pooled)} arrives" if arrival.pooled.arrived > 0 else "which harms too"
        return said

    def as_json(self) -> dict[str, Any]:
        trial, arrival = self.chosen()
        return {
            "schema": SCHEMA,
            "kind": "check",
            "pack": {"name": "lora-transfer", "version": VERSION},
            "source": vars(self.source),
            "target": vars(self.target),
            "adapter": vars(self.adapter),
            "settings": dict(self.settings),
            "sentence": self.sentence(),
            "notes": list(self.notes),
            "chosen": {"role": trial.role, "label": trial.label, "strength": arrival.strength, **vars(arrival.pooled)},
            "noise_levels": list(self.noise_levels),
            "trials": [trial.as_json() for trial in self.trials],
            "seconds": self.seconds,
        }

    def dumps(self) -> str:
        """The report as indented JSON text; non-finite numbers are an error, for JSON has none."""
        return json.dumps(self.as_json(), indent=1, allow_nan=False)


def _arrived(pooled: Agreement) -> str:
    figures = f"cosine {pooled.cosine:.2f}, {pooled.norm_ratio:.2f} times as strong"
    if pooled.arrived > 0:
        return f"{_percent(pooled)} of the LoRA's effect arrived ({figures})"
    return f"harms: it is farther from the LoRA's effect than doing nothing (G {pooled.arrived:.2f}, {figures})"


def _brought(name: str, pooled: Agreement) -> str:
    return f"{name} brings {_percent(pooled)}" if pooled.arrived > 0 else f"{name} harms (G {pooled.arrived:.2f})"


def _percent(pooled: Agreement) -> str:
    return f"{pooled.arrived:.0%}"
