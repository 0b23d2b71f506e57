"""Measures a LoRA on a target with a seed, for every candidate. Results are saved, so that a run can stop."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from core.check import measure

from ..memory_bases import make_base
from .bases import BASES, LORAS, ModelStore
from .candidates import Candidate
from .engine import Factors, TransferJob
from .judge import Judge, States
from .latents import VARIANTS, VARIANTS_SEEN
from .training import with_lora

PROMPTS = 8  # number of seen subjects that the score is measured on


@dataclass(frozen=True)
class Measurement:
    """A LoRA, a target and a seed, with everything that the candidates are compared with.

    made: another LoRA of the same style that is transferred instead; its ceiling is still the first one, trained on the
    target."""

    store: ModelStore
    lora: str
    target: str
    seed: int
    made: str | None = None

    @property
    def label(self) -> str:
        return f"{self.made or self.lora} to {self.target} {self.seed}"

    def factors(self) -> Factors:
        """The LoRA that is transferred."""
        return self.store.lora(self.made or self.lora, "A", self.seed)

    def is_trained(self) -> bool:
        """Whether all files that this measurement needs exist."""
        needed = ((self.made or self.lora, "A"), (self.lora, "A"), (self.lora, self.target))
        return all(self.store.path(f"{lora.replace(' ', '_')}.{base}.{self.seed}").is_file() for lora, base in needed)

    def verdict(self) -> dict[str, Any]:
        """The verdict that a user gets before a transfer."""
        verdict = self.job.survey.verdict
        return {} if verdict is None else verdict.as_json()

    @property
    def style(self) -> str:
        return LORAS[self.lora].style

    @property
    def subject(self) -> list[int]:
        """The index of the LoRA's subject; empty for a style LoRA."""
        name = LORAS[self.lora].subject
        return [self.store.latents.names.index(name)] if name else []

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.store.family, self.store.latents)

    @cached_property
    def job(self) -> TransferJob:
        source, target = (make_base(name, self.store.base(name, self.seed)) for name in ("A", self.target))
        return TransferJob(source, target, self.factors())

    @cached_property
    def models(self) -> tuple[Any, Any]:
        build = self.store.family.build
        return build("whole"), build(self.store.shape(self.target))

    @cached_property
    def states(self) -> dict[str, tuple[States, Tensor, Tensor, Tensor]]:
        """The states that scores are measured on: the source's own samplings, and noised real drawings. With each, the
        answers of the source without and with its LoRA, and of the target without."""
        base, seen = self.store.base("A", 0), self.store.latents.seen
        subjects = self.subject * PROMPTS or seen[:: len(seen) // PROMPTS][:PROMPTS]
        source_weights = with_lora(base, self.factors())
        kinds = {
            "sampled": self.judge.sample_states(self.models[0], source_weights, subjects),
            "drawn": self.judge.noise_real_drawings(self.style, subjects),
        }
        source, target = self.models
        bare = self.store.base(self.target, self.seed)
        return {
            kind: (
                states,
                self.judge.answers_on(source, base, states),
                self.judge.answers_on(source, source_weights, states),
                self.judge.answers_on(target, bare, states),
            )
            for kind, states in kinds.items()
        }

    def baseline(self) -> dict[str, Any]:
        """Measures the target without a LoRA, and with a LoRA trained on it."""
        trained = self.store.lora(self.lora, self.target, self.seed)
        without, own = self._losses({})
        with_it, own_with_it = self._losses(trained)
        return {
            "none": without,
            "none, own": own,
            "trained": with_it,
            "trained, own": own_with_it,
            **self._scores(trained),
        }

    def losses_alone(self) -> dict[str, Any]:
        """The part of `baseline` that shares are made of."""
        trained = self.store.lora(self.lora, self.target, self.seed)
        return {"none": self._style_losses({}), "trained": self._style_losses(trained)}

    def measure_losses(self, candidate: Candidate) -> dict[str, Any]:
        """The part of `measure` that shares are made of."""
        return {"loss": self._style_losses(candidate.transfer(self.job))}

    def measure(self, candidate: Candidate) -> dict[str, Any]:
        """Losses and scores of a candidate."""
        factors = candidate.transfer(self.job)
        loss, own = self._losses(factors)
        return {"loss": loss, "own": own, **self._scores(factors)}

    def _losses(self, factors: Factors) -> tuple[list[float], list[float]]:
        """Losses by held-out subject, in the LoRA's style and in the target's own.

        For a LoRA of one subject, the losses in its style are by held-out drawing, measured several times."""
        weights, held_out = self._weights(factors), self.store.latents.held_out
        own = self.judge.losses(self.models[1], weights, BASES[self.target].styles[0], held_out)
        return self._style_losses(factors), own.tolist()

    def _style_losses(self, factors: Factors) -> list[float]:
        model, weights = self.models[1], self._weights(factors)
        if not self.subject:
            return self.judge.losses(model, weights, self.style, self.store.latents.held_out).tolist()
        held_out = range(VARIANTS_SEEN, len(VARIANTS))
        return self.judge.losses_by_drawing(model, weights, self.style, self.subject[0], held_out, 8).tolist()

    def _weights(self, factors: Factors) -> dict[str, Tensor]:
        return with_lora(self.store.base(self.target, self.seed), factors)

    def _scores(self, factors: Factors) -> dict[str, float]:
        base = self.store.base(self.target, self.seed)
        scores: dict[str, float] = {}
        for kind, (states, without, with_it, bare) in self.states.items():
            answer = self.judge.answers_on(self.models[1], with_lora(base, factors), states)
            pooled = measure(1.0, answer - bare, with_it - without, bare - with_it).pooled
            scores |= {f"closed {kind}": pooled.score, f"G {kind}": pooled.change_match, f"cos {kind}": pooled.cosine}
        return scores


def points(
    measurement: Measurement, candidates: Sequence[Candidate], folder: Path, *, only_losses: bool = False
) -> dict[str, Any]:
    """The saved results of a measurement; measures the baseline and candidates that are missing, if its weights are
    trained. Empty if they are not and nothing is saved. only_losses: leaves out scores and damage, for a folder of such
    results."""
    path = folder / f"{measurement.store.family.name} {measurement.label}.json".replace(" ", "_")
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    wanted = ["verdict", "baseline", *(candidate.name for candidate in candidates)]
    missing = [name for name in wanted if name not in results]
    if missing and measurement.is_trained():
        steps: dict[str, Callable[[], dict[str, Any]]] = {
            candidate.name: partial(measurement.measure_losses if only_losses else measurement.measure, candidate)
            for candidate in candidates
        }
        baseline = measurement.losses_alone if only_losses else measurement.baseline
        steps |= {"verdict": measurement.verdict, "baseline": baseline}
        for name in missing:
            results[name] = steps[name]()
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results))
        print(f"{measurement.store.family.name}: {measurement.label}, {len(missing)} measured", flush=True)
    return results
