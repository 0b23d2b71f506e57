"""Checks a transfer: compares how the adapter changes the outputs of the source and of the target, on the same noised
latents."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from ...core.check import Attempt, CheckSettings, Role, Trial, difference, measure
from ...core.errors import UnsupportedAdapter
from ...core.progress import Progress
from ...core.reports.check import CheckReport
from ...core.reports.envelope import Identity
from .adapter.adapter import Adapter
from .adapter.apply import ApplyResult, apply
from .adapter.group import OF_TEXT_ENCODER
from .adapter.metadata import method_of
from .adapter.strength import scale_adapter
from .base.from_model import base_from_model
from .base.merge import note_patched_weights
from .sampling.outputs import Start, Tick, make_start, predict_outputs, require_comparable
from .sampling.picture_size import size_for_model
from .source_doubts import doubt_source
from .swapped import require_target


@dataclass(frozen=True)
class CheckResult:
    """The report of a check, and the chosen adapter, scaled so that strength 1 is the chosen strength."""

    report: CheckReport
    adapter: Adapter


@dataclass(frozen=True)
class CheckInputs:
    """The two models without the adapter, and the conditioning of each."""

    source: Any
    target: Any
    conditioning: Any
    target_conditioning: Any


@dataclass(frozen=True)
class _Candidate:
    role: Role
    label: str
    adapter: Adapter
    applied: ApplyResult


@dataclass(frozen=True)
class _Aim:
    """What the target is compared with: the noised latents, the output of the source with the adapter, and the change
    that the adapter makes to the source's output. All (levels, n, ...)."""

    states: Tensor
    output: Tensor
    change: Tensor


def check(
    inputs: CheckInputs,
    adapter: Adapter,
    transferred: Adapter,
    more: Sequence[Adapter],
    latent: Mapping[str, Any] | None,
    settings: CheckSettings,
    progress: Progress,
) -> CheckResult:
    """Measure how far `transferred`, each of `more` and the adapter itself bring the target towards the source with the
    adapter. All passes of the source come first, so that only one model is needed at a time."""
    started = time.monotonic()
    settings = replace(settings, size=settings.size or size_for_model(inputs.source))
    require_comparable(inputs.source, inputs.target)
    start = make_start(inputs.source, inputs.target, latent, settings)
    bases = [base_from_model(model) for model in (inputs.source, inputs.target)]
    doubts = (*require_target(transferred, *bases), *doubt_source(adapter, *bases))
    on_source = apply(adapter, inputs.source, None, 1.0, 0.0)
    candidates, without_copy = _candidates(inputs.target, adapter, transferred, more)
    passes = 3 + len(candidates) * len(settings.strengths())
    ticks = _ticks(passes, len(start.noise) * len(start.levels), progress)
    trials = _trials(inputs, on_source.model, candidates, start, settings.strengths(), ticks)
    report = CheckReport(
        source=Identity.of(bases[0]),
        target=Identity.of(bases[1]),
        adapter=Identity.of(adapter),
        settings={**vars(settings), "latents": len(start.noise), "states": "sampled" if start.sampled else "given"},
        noise_levels=tuple(float(level) for level in start.levels),
        trials=trials,
        notes=(*doubts, *without_copy, *_notes(inputs, on_source, candidates)),
        seconds=time.monotonic() - started,
    )
    chosen, attempt = report.chosen()
    winner = candidates[trials.index(chosen)].adapter
    scaled = scale_adapter(winner, attempt.strength, bases[1])
    return CheckResult(replace(report, notes=(*report.notes, *scaled.notes)), scaled.adapter)


def _trials(
    inputs: CheckInputs,
    patched_source: Any,
    candidates: Sequence[_Candidate],
    start: Start,
    strengths: Sequence[float],
    ticks: Iterator[Tick],
) -> tuple[Trial, ...]:
    """Try every candidate at every strength."""
    aim = _on_source(inputs, patched_source, start, ticks)
    plain = _on_target(inputs, inputs.target, start, aim.states, ticks, "the target without the LoRA")
    apart = difference(plain, aim.output, start.levels)
    trials: list[Trial] = []
    for candidate in candidates:
        adapter, applied = candidate.adapter, candidate.applied
        attempts: list[Attempt] = []
        for strength in strengths:
            patched = applied if strength == 1 else apply(adapter, inputs.target, None, strength, 0.0)
            what = f"the target with {candidate.label} at strength {strength:g}"
            output = _on_target(inputs, patched.model, start, aim.states, ticks, what)
            attempts.append(measure(strength, difference(output, plain, start.levels), aim.change, apart))
        label, summary = candidate.label, applied.summary()
        trials.append(Trial(candidate.role, label, adapter.name, adapter.fingerprint, summary, tuple(attempts)))
    return tuple(trials)


def _candidates(
    target: Any, adapter: Adapter, transferred: Adapter, more: Sequence[Adapter]
) -> tuple[list[_Candidate], tuple[str, ...]]:
    """The adapters to try on the target, and a note if the plain copy does not fit it. Any other adapter that does not
    fit is an error."""
    named: list[tuple[Role, str, Adapter]] = [("transferred", "transferred", transferred)]
    for index, further in enumerate(more, 1):
        named.append(("more", f"more {index}", further))
    candidates = [
        _Candidate(role, _label(label, candidate), candidate, apply(candidate, target, None, 1.0, 0.0))
        for role, label, candidate in named
    ]
    try:
        candidates.append(_Candidate("copy", "the plain copy", adapter, apply(adapter, target, None, 1.0, 0.0)))
    except UnsupportedAdapter as error:
        return candidates, (f"there is no plain copy to compare with: {error}",)
    return candidates, ()


def _label(label: str, adapter: Adapter) -> str:
    method = method_of(adapter.metadata)
    return label if method is None else f"{label} ({method})"


def _on_source(inputs: CheckInputs, patched: Any, start: Start, ticks: Iterator[Tick]) -> _Aim:
    within = predict_outputs(patched, inputs.conditioning, start, None, next(ticks), "the source with the LoRA")
    without = predict_outputs(
        inputs.source, inputs.conditioning, start, within.states, next(ticks), "the source without the LoRA"
    )
    return _Aim(within.states, within.denoised, difference(within.denoised, without.denoised, start.levels))


def _on_target(
    inputs: CheckInputs, model: Any, start: Start, states: Tensor, ticks: Iterator[Tick], what: str
) -> Tensor:
    return predict_outputs(model, inputs.target_conditioning, start, states, next(ticks), what).denoised


def _ticks(passes: int, calls: int, progress: Progress) -> Iterator[Tick]:
    """A tick for each pass. Together they count all calls of the models."""
    for index in range(passes):
        yield partial(_report_calls, progress, index * calls, passes * calls)


def _report_calls(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total, "")


def _notes(inputs: CheckInputs, on_source: ApplyResult, candidates: Sequence[_Candidate]) -> tuple[str, ...]:
    """What the figures alone do not say."""
    notes = note_patched_weights(inputs.source, inputs.target)
    on_target = [(candidate.label, candidate.applied) for candidate in candidates]
    for name, applied in (("the LoRA on the source", on_source), *on_target):
        if applied.not_applied:
            notes.append(f"{name}: {applied.summary()}")
    if OF_TEXT_ENCODER in on_source.not_applied.values():
        notes.append("the LoRA's part for text encoders is not measured: the conditioning is used as it is connected")
    return tuple(notes)
