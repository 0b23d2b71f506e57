"""Measures refining for a pair of source and target, a LoRA, a seed and a run. Results are saved, so runs can stop."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from core.refine.loop import RefineSettings
from core.refine.teacher_samples import SAMPLINGS

from ..memory_bases import make_base
from ..quality.autoencoder import load
from ..quality.bases import BASES, BATCH, LORAS, ModelStore
from ..quality.candidates import CANDIDATES, by
from ..quality.committed import VAE
from ..quality.engine import Factors, TransferJob
from ..quality.features import StyleNetwork
from ..quality.judge import Judge
from ..quality.sampling import Sampler
from ..quality.training import with_lora
from .student import RefinedLora, TeacherSet, pass_through_pictures, refine_lora, sample_teacher, start_from

TRANSFER_METHODS = ("copy", "restore_both")  # a refined LoRA is compared with these


@dataclass(frozen=True)
class Run:
    """A way to refine. start: a method's name, "default", or "zeros". samplings, prompts: of the teacher set.
    pictures: the teacher set is passed through pictures, as for a target with other latents."""

    name: str
    settings: RefineSettings = field(default_factory=RefineSettings)
    start: str = "default"
    samplings: int = SAMPLINGS
    prompts: int | None = None
    pictures: bool = False


@dataclass(frozen=True)
class Pair:
    """A LoRA of one store's A, and a target base of the same store or of the other family's."""

    source: ModelStore
    target: ModelStore
    lora: str
    base: str
    seed: int

    @property
    def label(self) -> str:
        family = self.target.family.name
        route = family if self.same_family else f"{self.source.family.name} to {family}"
        return f"{route}, {self.lora}: {self.base}"

    @property
    def same_family(self) -> bool:
        return self.source.family.name == self.target.family.name

    @property
    def unrelated(self) -> bool:
        """Whether nothing can be transferred, so that the run starts from zeros."""
        return not self.same_family or self.base in ("other", "wide")

    def is_trained(self) -> bool:
        """Whether all files that this pair needs exist."""
        name = self.lora.replace(" ", "_")
        return all(
            store.path(f"{name}.{base}.{self.seed}").is_file()
            for store, base in ((self.source, "A"), (self.target, self.base))
        )

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        return self.target.base(self.base, self.seed)

    @cached_property
    def models(self) -> tuple[Any, Any]:
        return self.source.family.build("whole"), self.target.family.build(self.target.shape(self.base))

    @cached_property
    def job(self) -> TransferJob:
        source = make_base("A", self.source.base("A", 0))
        return TransferJob(source, make_base(self.base, self.weights), self.source.lora(self.lora, "A", self.seed))

    def transferred(self, method: str) -> Factors:
        """Transfers the LoRA as the node does. "default" is restore_both, which copies where the depth differs."""
        if method in ("default", "restore_both"):
            return by(method="restore_both")(self.job)
        return next(candidate for candidate in CANDIDATES if candidate.name == method).transfer(self.job)

    def teacher_set(self, run: Run, cache: dict[Any, TeacherSet]) -> TeacherSet:
        """The teacher samples, which depend on source and LoRA only. The cache holds one set for several targets."""
        key = self.source.family.name, self.lora, self.seed, run.samplings, run.prompts
        if key not in cache:
            cache.clear()
            latents = self.source.latents
            contexts = latents.context[latents.seen[:: max(1, len(latents.seen) // (run.prompts or 10**9))]]
            base, lora = self.source.base("A", 0), self.source.lora(self.lora, "A", self.seed)
            contexts = contexts[: run.prompts]
            cache[key] = sample_teacher(
                self.source.family, self.models[0], base, lora, contexts, run.samplings, self.seed
            )
        return cache[key]

    def refine(self, run: Run, cache: dict[Any, TeacherSet]) -> RefinedLora:
        """Refines the LoRA on the target, from the run's start."""
        start = None if run.start == "zeros" or self.unrelated else self.transferred(run.start)
        settings = replace(run.settings, seed=self.seed)
        samples = self.teacher_set(run, cache)
        if run.pictures:
            samples = pass_through_pictures(samples, load(VAE), self.seed)
        trainable = start_from(self.weights, start, settings)
        return refine_lora(self.target.family, self.models[1], self.weights, samples, trainable, settings)


@dataclass(frozen=True)
class Measurer:
    """Measures pairs, and saves the results in a folder if it has one."""

    style_network: StyleNetwork | None
    folder: Path | None
    cache: dict[Any, TeacherSet] = field(default_factory=dict[Any, TeacherSet])

    def points(self, pair: Pair, runs: Sequence[Run]) -> dict[str, Any]:
        path = None if self.folder is None else self.folder / _file_name(pair)
        results: dict[str, Any] = json.loads(path.read_text()) if path is not None and path.is_file() else {}
        wanted = {run.name: run for run in runs}
        for name in ("baseline", *(() if pair.unrelated else TRANSFER_METHODS), *wanted):
            if name in results:
                continue
            if name == "baseline":
                results[name] = self._baseline(pair)
            elif name in wanted:
                results[name] = self._measure_run(pair, wanted[name])
            else:
                results[name] = self._measure_lora(pair, pair.transferred(name))
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(results))
            print(f"{pair.label} {pair.seed}: {name}", flush=True)
        return results

    def _baseline(self, pair: Pair) -> dict[str, Any]:
        """Measures the target without a LoRA, and with a LoRA trained on it from drawings."""
        trained = self._measure_lora(pair, pair.target.lora(pair.lora, pair.base, pair.seed))
        without = self._measure_lora(pair, {})
        named = {"none": without, "trained": trained}
        return {
            f"{name}{ending}": figures[key]
            for name, figures in named.items()
            for key, ending in (("loss", ""), ("own", ", own"), ("distance", ", distance"))
            if key in figures
        }

    def _measure_run(self, pair: Pair, run: Run) -> dict[str, Any]:
        refined = pair.refine(run, self.cache)
        samples = pair.teacher_set(run, self.cache)
        return {
            **self._measure_lora(pair, refined.factors),
            "start": refined.start,
            "score": refined.last.best.score,
            "best": refined.last.best.step,
            "steps": refined.last.number,
            "ended": refined.last.ended,
            "teaching": samples.seconds,
            "seconds": refined.seconds,
            "rows": _rows(run, samples, refined.last.number),
        }

    def _measure_lora(self, pair: Pair, factors: Factors) -> dict[str, Any]:
        """Losses by held-out subject in the LoRA's style and in the target's own; distance of drawings to the style."""
        latents, model = pair.target.latents, pair.models[1]
        judge, weights = Judge(pair.target.family, latents), with_lora(pair.weights, factors)
        styles = LORAS[pair.lora].style, BASES[pair.base].styles[0]
        loss, own = (judge.losses(model, weights, style, latents.held_out).tolist() for style in styles)
        figures: dict[str, Any] = {"loss": loss, "own": own}
        if self.style_network is not None:
            guidance = 1.0 if pair.base == "turbo" else 2.0  # turbo has its guidance built in
            context = latents.context[latents.held_out]
            drawn, _ = Sampler(12, guidance).sample(pair.target.family, model, weights, context, seed=11)
            figures["distance"] = self.style_network.distance(drawn, latents.styles[styles[0]][latents.held_out, 0])
        return figures


def _file_name(pair: Pair) -> str:
    return f"{pair.label} {pair.seed}.json".replace(" ", "_").replace(":", "")


def _rows(run: Run, samples: TeacherSet, steps: int) -> float:
    """The cost of a run in rows that go forward and backward; a row that only goes forward counts a third."""
    forward = len(samples.level) + (run.settings.checks + 2) * samples.held_out()
    if run.settings.match == "differences":
        forward += 2 * len(samples.level)
    return steps * run.settings.batch + forward / 3


def rows_of_training(lora: str) -> int:
    """The cost of training the LoRA on the target from drawings, in the same unit."""
    return LORAS[lora].steps * BATCH
