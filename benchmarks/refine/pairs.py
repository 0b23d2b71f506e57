"""Every measurement of refining: a LoRA, its source, a target, a seed, a run. Kept on disk: a stopped run goes on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from core.refine.loop import RefineSettings
from core.refine.teacher_samples import SAMPLINGS

from ..kept_base import kept_base
from ..quality.autoencoder import load
from ..quality.bases import BASES, BATCH, LORAS, Workshop
from ..quality.candidates import CANDIDATES, by
from ..quality.committed import VAE
from ..quality.engine import Factors, Journey
from ..quality.features import Eye
from ..quality.judging import Judge
from ..quality.sampling import Sampler
from ..quality.training import with_lora
from .desk import Refined, TeacherSet, refined, teach, through_pictures

CARRIED = ("copy", "restore_both")  # what a refined one is held against


@dataclass(frozen=True)
class Run:
    """A way to refine. start: a method's name, "default", or "zeros"; samplings, prompts: of the teacher's set;
    pictures: it is passed on as pictures, as to a target with latents of its own."""

    name: str
    settings: RefineSettings = field(default_factory=RefineSettings)
    start: str = "default"
    samplings: int = SAMPLINGS
    prompts: int | None = None
    pictures: bool = False


@dataclass(frozen=True)
class Pair:
    """A LoRA of one workshop's A, to be had on a base of the same workshop or of the other family's."""

    source: Workshop
    target: Workshop
    lora: str
    base: str
    seed: int

    @property
    def label(self) -> str:
        family = self.target.family.name
        way = family if self.within else f"{self.source.family.name} to {family}"
        return f"{way}, {self.lora}: {self.base}"

    @property
    def within(self) -> bool:
        return self.source.family.name == self.target.family.name

    @property
    def unlike(self) -> bool:
        """Nothing can be carried: the run starts from zeros."""
        return not self.within or self.base in ("other", "wide")

    def trained(self) -> bool:
        """Whether all that this pair needs lies on disk."""
        name = self.lora.replace(" ", "_")
        return all(
            workshop.path(f"{name}.{base}.{self.seed}").is_file()
            for workshop, base in ((self.source, "A"), (self.target, self.base))
        )

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        return self.target.base(self.base, self.seed)

    @cached_property
    def models(self) -> tuple[Any, Any]:
        return self.source.family.build("whole"), self.target.family.build(self.target.shape(self.base))

    @cached_property
    def journey(self) -> Journey:
        source = kept_base("A", self.source.base("A", 0))
        return Journey(source, kept_base(self.base, self.weights), self.source.lora(self.lora, "A", self.seed))

    def carried(self, method: str) -> Factors:
        """As the node carries it; "default" is restore_both, which copies where the target has other blocks."""
        if method in ("default", "restore_both"):
            return by(method="restore_both")(self.journey)
        return next(one for one in CANDIDATES if one.name == method).carry(self.journey)

    def taught(self, run: Run, kept: dict[Any, TeacherSet]) -> TeacherSet:
        """Source and LoRA alone make a teacher set: it serves every target and run."""
        key = self.source.family.name, self.lora, self.seed, run.samplings, run.prompts
        if key not in kept:
            kept.clear()
            latents = self.source.latents
            contexts = latents.context[latents.seen[:: max(1, len(latents.seen) // (run.prompts or 10**9))]]
            base, lora = self.source.base("A", 0), self.source.lora(self.lora, "A", self.seed)
            contexts = contexts[: run.prompts]
            kept[key] = teach(self.source.family, self.models[0], base, lora, contexts, run.samplings, self.seed)
        return kept[key]

    def refined(self, run: Run, kept: dict[Any, TeacherSet]) -> Refined:
        start = None if run.start == "zeros" or self.unlike else self.carried(run.start)
        settings = replace(run.settings, seed=self.seed)
        taught = self.taught(run, kept)
        if run.pictures:
            taught = through_pictures(taught, load(VAE), self.seed)
        return refined(self.target.family, self.models[1], self.weights, taught, start, settings)


@dataclass(frozen=True)
class Desk:
    """Measures pairs, and keeps what it measured in a folder, if there is one."""

    eye: Eye | None
    folder: Path | None
    kept: dict[Any, TeacherSet] = field(default_factory=dict[Any, TeacherSet])

    def points(self, pair: Pair, runs: Sequence[Run]) -> dict[str, Any]:
        path = None if self.folder is None else self.folder / _file_name(pair)
        found: dict[str, Any] = json.loads(path.read_text()) if path is not None and path.is_file() else {}
        wanted = {run.name: run for run in runs}
        for name in ("baseline", *(() if pair.unlike else CARRIED), *wanted):
            if name in found:
                continue
            if name == "baseline":
                found[name] = self._baseline(pair)
            elif name in wanted:
                found[name] = self._run(pair, wanted[name])
            else:
                found[name] = self._judged(pair, pair.carried(name))
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(found))
            print(f"{pair.label} {pair.seed}: {name}", flush=True)
        return found

    def _baseline(self, pair: Pair) -> dict[str, Any]:
        """Without a LoRA, and with one trained on the target from drawings."""
        trained = self._judged(pair, pair.target.lora(pair.lora, pair.base, pair.seed))
        without = self._judged(pair, {})
        named = {"none": without, "trained": trained}
        return {
            f"{name}{end}": one[key]
            for name, one in named.items()
            for key, end in (("loss", ""), ("own", ", own"), ("distance", ", distance"))
            if key in one
        }

    def _run(self, pair: Pair, run: Run) -> dict[str, Any]:
        made = pair.refined(run, self.kept)
        taught = pair.taught(run, self.kept)
        return {
            **self._judged(pair, made.factors),
            "start": made.start,
            "score": made.last.best.score,
            "best": made.last.best.step,
            "steps": made.last.number,
            "ended": made.last.ended,
            "teaching": taught.seconds,
            "seconds": made.seconds,
            "rows": _rows(run, taught, made.last.number),
        }

    def _judged(self, pair: Pair, factors: Factors) -> dict[str, Any]:
        """Losses by held-out subject, in the LoRA's style and in the target's own; how far drawings are from it."""
        latents, model = pair.target.latents, pair.models[1]
        judge, weights = Judge(pair.target.family, latents), with_lora(pair.weights, factors)
        styles = LORAS[pair.lora].style, BASES[pair.base].styles[0]
        loss, own = (judge.losses(model, weights, style, latents.held_out).tolist() for style in styles)
        judged: dict[str, Any] = {"loss": loss, "own": own}
        if self.eye is not None:
            guidance = 1.0 if pair.base == "turbo" else 2.0  # its guidance is built in
            context = latents.context[latents.held_out]
            drawn, _ = Sampler(12, guidance).sample(pair.target.family, model, weights, context, seed=11)
            judged["distance"] = self.eye.distance(drawn, latents.styles[styles[0]][latents.held_out, 0])
        return judged


def _file_name(pair: Pair) -> str:
    return f"{pair.label} {pair.seed}.json".replace(" ", "_").replace(":", "")


def _rows(run: Run, taught: TeacherSet, steps: int) -> float:
    """What a run cost, in rows that go forward and backward; a row that goes forward alone counts a third."""
    forward = len(taught.level) + (run.settings.checks + 2) * taught.held_out()
    if run.settings.match == "differences":
        forward += 2 * len(taught.level)
    return steps * run.settings.batch + forward / 3


def rows_of_training(lora: str) -> int:
    """The same of training the LoRA on the target from drawings."""
    return LORAS[lora].steps * BATCH
