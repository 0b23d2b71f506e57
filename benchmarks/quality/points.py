"""Every measurement: one LoRA, one target, one seed, one candidate. Kept on disk, so that a run can be stopped."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from core.check import measure

from ..kept_base import kept_base
from .bases import BASES, LORAS, Workshop
from .candidates import Candidate, by
from .engine import Factors, Journey
from .judging import Judge, States
from .latents import VARIANTS, VARIANTS_SEEN
from .training import with_lora

PROMPTS = 8  # seen subjects that the score is taken on


@dataclass(frozen=True)
class Errand:
    """A LoRA to be carried to a target, with everything that its candidates are held against."""

    workshop: Workshop
    lora: str
    target: str
    seed: int
    via: str | None = None  # another base that the LoRA is carried to first, by the default method

    @property
    def label(self) -> str:
        way = "" if self.via is None else f" via {self.via}"
        return f"{self.lora} to {self.target}{way} {self.seed}"

    def trained(self) -> bool:
        """Whether all that this errand needs lies on disk."""
        lora = self.lora.replace(" ", "_")
        return all(
            self.workshop.path(f"{lora}.{base}.{self.seed}").is_file()
            for base in ("A", self.target)
            if base is not None
        )

    def verdict(self) -> dict[str, Any]:
        """What a user is told beforehand."""
        judged = self.journey.surveyed.verdict
        return {} if judged is None else judged.as_json()

    @property
    def style(self) -> str:
        return LORAS[self.lora].style

    @property
    def subject(self) -> list[int]:
        """The one that the LoRA is of, if it is of one."""
        name = LORAS[self.lora].subject
        return [self.workshop.latents.names.index(name)] if name else []

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.workshop.family, self.workshop.latents)

    @cached_property
    def journey(self) -> Journey:
        source, target, *between = (
            kept_base(name, self.workshop.base(name, self.seed)) for name in ("A", self.target, self.via) if name
        )
        lora = self.workshop.lora(self.lora, "A", self.seed)
        if not between:
            return Journey(source, target, lora)
        return Journey(between[0], target, by(method="restore_both")(Journey(source, between[0], lora)))

    @cached_property
    def models(self) -> tuple[Any, Any]:
        build = self.workshop.family.build
        return build("whole"), build(self.workshop.shape(self.target))

    @cached_property
    def states(self) -> dict[str, tuple[States, Tensor, Tensor, Tensor]]:
        """What the scores are taken on, its own drawings on the way, and real ones; and there the answers of the source
        without and with its LoRA, and of the target without."""
        base, seen = self.workshop.base("A", 0), self.workshop.latents.seen
        subjects = self.subject * PROMPTS or seen[:: len(seen) // PROMPTS][:PROMPTS]
        changed = with_lora(base, self.workshop.lora(self.lora, "A", self.seed))
        kinds = {
            "sampled": self.judge.sampled_states(self.models[0], changed, subjects),
            "drawn": self.judge.drawn_states(self.style, subjects),
        }
        source, target = self.models
        bare = self.workshop.base(self.target, self.seed)
        return {
            kind: (
                states,
                self.judge.answers_on(source, base, states),
                self.judge.answers_on(source, changed, states),
                self.judge.answers_on(target, bare, states),
            )
            for kind, states in kinds.items()
        }

    def baseline(self) -> dict[str, Any]:
        """Without the LoRA, and with one trained on the target."""
        trained = self.workshop.lora(self.lora, self.target, self.seed)
        without, own = self._losses({})
        with_it, own_with_it = self._losses(trained)
        return {
            "none": without,
            "none, own": own,
            "trained": with_it,
            "trained, own": own_with_it,
            **self._scores(trained),
        }

    def measured(self, candidate: Candidate) -> dict[str, Any]:
        factors = candidate.carry(self.journey)
        loss, own = self._losses(factors)
        return {"loss": loss, "own": own, **self._scores(factors)}

    def _losses(self, factors: Factors) -> tuple[list[float], list[float]]:
        """By held-out subject, or by held-out drawing of the one subject, several times: in the LoRA's style; and by
        held-out subject in the target's own."""
        weights, latents = with_lora(self.workshop.base(self.target, self.seed), factors), self.workshop.latents
        own = self.judge.losses(self.models[1], weights, BASES[self.target].styles[0], latents.held_out)
        if not self.subject:
            return self.judge.losses(self.models[1], weights, self.style, latents.held_out).tolist(), own.tolist()
        kept = range(VARIANTS_SEEN, len(VARIANTS))
        return self.judge.losses(self.models[1], weights, self.style, self.subject * 8, kept).tolist(), own.tolist()

    def _scores(self, factors: Factors) -> dict[str, float]:
        base = self.workshop.base(self.target, self.seed)
        scores: dict[str, float] = {}
        for kind, (states, without, with_it, bare) in self.states.items():
            answer = self.judge.answers_on(self.models[1], with_lora(base, factors), states)
            pooled = measure(1.0, answer - bare, with_it - without, bare - with_it).pooled
            scores |= {f"closed {kind}": pooled.score, f"G {kind}": pooled.change_match, f"cos {kind}": pooled.cosine}
        return scores


def points(errand: Errand, candidates: Sequence[Candidate], folder: Path) -> dict[str, Any]:
    """Baseline and candidates of an errand: what is missing is measured."""
    path = folder / f"{errand.workshop.family.name} {errand.label}.json".replace(" ", "_")
    kept: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    wanted = ["verdict", "baseline", *(one.name for one in candidates)]
    if missing := [name for name in wanted if name not in kept]:
        ways: dict[str, Callable[[], dict[str, Any]]] = {one.name: partial(errand.measured, one) for one in candidates}
        ways |= {"verdict": errand.verdict, "baseline": errand.baseline}
        for name in missing:
            kept[name] = ways[name]()
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(kept))
        print(f"{errand.workshop.family.name}: {errand.label}, {len(missing)} measured", flush=True)
    return kept
