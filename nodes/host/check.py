"""Checks a transfer: compares what the adapter changes in the source's output and in the target's, on the same noised
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
from .sampling.outputs import Start, Tick, make_start, predict_outputs, require_comparable


@dataclass(frozen=True)
class CheckResult:
    """The report of a check, and the adapter that it chose, scaled so that strength 1 is the chosen strength."""

    report: CheckReport
    adapter: Adapter


@dataclass(frozen=True)
class CheckInputs:
    """The two models as they are connected, without the adapter, and the conditioning of each."""

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
    """The noised latents, what the source with the adapter makes of them, and what of that is the adapter's: all
    (levels, n, ...)."""

    states: Tensor
    output: Tensor
    change: Tensor


def check(
    sides: CheckInputs,
    adapter: Adapter,
    transferred: Adapter,
    more: Sequence[Adapter],
    latent: Mapping[str, Any] | None,
    settings: CheckSettings,
    progress: Progress,
) -> CheckResult:
    """Measure how far `transferred`, each of `more` and the adapter itself bring the target towards the source with the
    adapter. All passes of the source come first, so that only one of the models is needed at a time."""
    started = time.monotonic()
    require_comparable(sides.source, sides.target)
    start = make_start(sides.source, sides.target, latent, settings)
    bases = [base_from_model(model) for model in (sides.source, sides.target)]
    on_source = apply(adapter, sides.source, None, 1.0, 0.0)
    candidates, without_copy = _candidates(sides.target, adapter, transferred, more)
    passes = 3 + len(candidates) * len(settings.strengths())
    ticks = _ticks(passes, len(start.noise) * len(start.levels), progress)
    trials = _trials(sides, on_source.model, candidates, start, settings.strengths(), ticks)
    report = CheckReport(
        source=Identity.of(bases[0]),
        target=Identity.of(bases[1]),
        adapter=Identity.of(adapter),
        settings={**vars(settings), "latents": len(start.noise), "states": "sampled" if start.sampled else "given"},
        noise_levels=tuple(float(level) for level in start.levels),
        trials=trials,
        notes=(*without_copy, *_notes(sides, on_source, candidates)),
        seconds=time.monotonic() - started,
    )
    chosen, attempt = report.chosen()
    winner = candidates[trials.index(chosen)].adapter
    made = scale_adapter(winner, attempt.strength, bases[1])
    return CheckResult(replace(report, notes=(*report.notes, *made.notes)), made.adapter)


def _trials(
    sides: CheckInputs,
    patched_source: Any,
    candidates: Sequence[_Candidate],
    start: Start,
    strengths: Sequence[float],
    ticks: Iterator[Tick],
) -> tuple[Trial, ...]:
    """Every candidate at every strength, beside what the adapter does to the source."""
    aim = _on_source(sides, patched_source, start, ticks)
    plain = _on_target(sides, sides.target, start, aim.states, ticks, "the target without the LoRA")
    apart = difference(plain, aim.output, start.levels)
    trials: list[Trial] = []
    for one in candidates:
        attempts: list[Attempt] = []
        for strength in strengths:
            patched = one.applied if strength == 1 else apply(one.adapter, sides.target, None, strength, 0.0)
            what = f"the target with {one.label} at strength {strength:g}"
            found = _on_target(sides, patched.model, start, aim.states, ticks, what)
            attempts.append(measure(strength, difference(found, plain, start.levels), aim.change, apart))
        held, applied = one.adapter, one.applied.summary()
        trials.append(Trial(one.role, one.label, held.name, held.fingerprint, applied, tuple(attempts)))
    return tuple(trials)


def _candidates(
    target: Any, adapter: Adapter, transferred: Adapter, more: Sequence[Adapter]
) -> tuple[list[_Candidate], tuple[str, ...]]:
    """All that the target is tried with, and a note where the adapter itself does not fit it; any other that does not
    is refused."""
    named: list[tuple[Role, str, Adapter]] = [("transferred", "transferred", transferred)]
    for index, one in enumerate(more, 1):
        named.append(("more", f"more {index}", one))
    found = [
        _Candidate(role, _label(label, one), one, apply(one, target, None, 1.0, 0.0)) for role, label, one in named
    ]
    try:
        found.append(_Candidate("copy", "the plain copy", adapter, apply(adapter, target, None, 1.0, 0.0)))
    except UnsupportedAdapter as error:
        return found, (f"there is no plain copy to compare with: {error}",)
    return found, ()


def _label(label: str, adapter: Adapter) -> str:
    method = method_of(adapter.metadata)
    return label if method is None else f"{label} ({method})"


def _on_source(sides: CheckInputs, patched: Any, start: Start, ticks: Iterator[Tick]) -> _Aim:
    within = predict_outputs(patched, sides.conditioning, start, None, next(ticks), "the source with the LoRA")
    without = predict_outputs(
        sides.source, sides.conditioning, start, within.states, next(ticks), "the source without the LoRA"
    )
    return _Aim(within.states, within.denoised, difference(within.denoised, without.denoised, start.levels))


def _on_target(
    sides: CheckInputs, model: Any, start: Start, states: Tensor, ticks: Iterator[Tick], what: str
) -> Tensor:
    return predict_outputs(model, sides.target_conditioning, start, states, next(ticks), what).denoised


def _ticks(passes: int, calls: int, progress: Progress) -> Iterator[Tick]:
    """One for each pass, which together count the calls of the models from none to all."""
    for index in range(passes):
        yield partial(_told, progress, index * calls, passes * calls)


def _told(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total, "")


def _notes(sides: CheckInputs, on_source: ApplyResult, candidates: Sequence[_Candidate]) -> tuple[str, ...]:
    """What the figures do not tell by themselves."""
    notes = [
        f"the connected {name} model has {len(model.patches)} patched weights already: they count as part of it"
        for name, model in (("source", sides.source), ("target", sides.target))
        if model.patches
    ]
    for name, applied in (("the LoRA on the source", on_source), *((one.label, one.applied) for one in candidates)):
        if applied.left:
            notes.append(f"{name}: {applied.summary()}")
    if OF_TEXT_ENCODER in on_source.left.values():
        notes.append("the LoRA's part on text encoders is not measured: the conditioning is taken as it is connected")
    return tuple(notes)
