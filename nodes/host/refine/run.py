"""A refinement: the source with its adapter teaches, the target with the carried one learns, and the best is kept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ....core.check import difference
from ....core.errors import NotEnoughMemory, NotMeasurable
from ....core.linalg import SAME_ANSWER
from ....core.refine.loop import Best, RefineSettings
from ....core.refine.teacher_samples import Lessons, aims
from ....core.reports.envelope import Identity
from ....core.reports.refine import RefineReport
from ..adapter.adapter import Adapter, fingerprint_of
from ..adapter.apply import Applied, apply
from ..adapter.group import OF_TEXT_ENCODER
from ..adapter.metadata import refined_metadata
from ..adapter.peft import SETTINGS
from ..base.from_model import HostBase, base_from_model
from ..sampling.conditioning import Prompt, digest, prompts_of
from ..sampling.noise import latent_space
from ..sampling.outputs import latents_of
from .inputs import Taught, pictures_taught, require_teachable, states_taught
from .previews import Previews
from .start import Refinable, from_nothing, refinable
from .student import HostStudent, in_host, with_room
from .teacher import TeacherSettings, taught
from .teacher_cache import changes_of, teacher_cache
from .train import Training

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What is connected. transferred: None starts from zeros; vae: decodes the pictures on the way; source_vae,
    target_vae: where the models do not share their latents."""

    source: Any
    target: Any
    adapter: Adapter
    conditioning: Any
    transferred: Adapter | None = None
    target_conditioning: Any = None
    latent: Mapping[str, Any] | None = None
    vae: Any = None
    source_vae: Any = None
    target_vae: Any = None

    def shares_latents(self) -> bool:
        return latent_space(self.source) == latent_space(self.target)


@dataclass(frozen=True)
class Refined:
    """The refined adapter (the one to start from, where nothing was better), its report, and pictures on the way."""

    adapter: Adapter
    report: RefineReport
    pictures: Tensor | None


def refine_adapter(wanted: Wanted, settings: RefineSettings, teaching: TeacherSettings, size: int, say: Say) -> Refined:
    """Teach, then train. Where the user cancels or memory runs out for good, the best so far is saved."""
    with_vaes = wanted.source_vae is not None and wanted.target_vae is not None
    require_teachable(wanted.source, wanted.target, settings.match, with_vaes)
    bases = base_from_model(wanted.source), base_from_model(wanted.target)
    prompts = _prompts(wanted)
    start = _start(wanted, bases, settings)
    on_source = apply(wanted.adapter, wanted.source, None, 1.0, 0.0)
    found = _taught(wanted, on_source.model, bases[0], prompts[0], settings, teaching, size, say)
    comfy.model_management.unload_model_and_clones(wanted.source)
    lessons = _lessons(wanted.target, found, prompts[1], settings, say)
    vae = wanted.vae or wanted.target_vae
    previews = Previews(wanted.target, vae, found.first_held_out(), settings.seed, teaching.target_steps)

    def made(best: Best, before: float) -> Adapter:
        return _refined(wanted, start, bases[1], settings, best, before)

    run = Training(lessons, settings, previews, made, say)
    with torch.inference_mode(False):
        run.run(start.with_kept(wanted.target), start, found.desk, prompts[1])
    report = RefineReport(
        source=Identity.of(bases[0]),
        target=Identity.of(bases[1]),
        adapter=Identity.of(wanted.adapter),
        start=None if start.start is None else Identity.of(start.start),
        settings={**vars(settings), **vars(teaching), "size": list(found.desk.states.shape[2:])},
        match=settings.match,
        teaching=found.account,
        losses=tuple(run.losses),
        scores=run.scores,
        best_step=run.best.step,
        ended=run.ended,
        notes=(*_notes(wanted, on_source, prompts[0], teaching), *start.notes, *run.notes, *previews.notes),
        seconds=run.seconds,
    )
    unchanged = start.start if run.best.step == 0 else None
    return Refined(unchanged or run.adapter(), report, run.pictures)


def _prompts(wanted: Wanted) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts for both models: the same ones in the same order."""
    source = prompts_of(wanted.conditioning)
    target = prompts_of(wanted.target_conditioning or wanted.conditioning)
    if len(source) != len(target) or not source:
        raise NotMeasurable(
            f"conditioning and target_conditioning: expected the same prompts for both models, found {len(source)} and "
            f"{len(target)}. Encode the same list with both text encoders."
        )
    return source, target


def _start(wanted: Wanted, bases: tuple[HostBase, HostBase], settings: RefineSettings) -> Refinable:
    if wanted.transferred is None:
        return from_nothing(wanted.adapter, *bases, wanted.target, settings.rank, settings.seed)
    return refinable(wanted.transferred, bases[1], wanted.target, settings.seed)


def _taught(
    wanted: Wanted,
    patched: Any,
    source: HostBase,
    prompts: list[Prompt],
    settings: RefineSettings,
    teaching: TeacherSettings,
    size: int,
    say: Say,
) -> Taught:
    bar = comfy.utils.ProgressBar(1)

    def tell(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)
        say(f"the source with its LoRA makes lessons: {done} of {total} calls")

    latent = torch.zeros_like(latents_of(wanted.source, wanted.latent, size)[:1].float().cpu())
    changes = changes_of(wanted.source)
    facts = {
        "source": source.fingerprint,
        "changes": changes,
        "adapter": wanted.adapter.fingerprint,
        "scales": {key: wanted.adapter.metadata[key] for key in SETTINGS if key in wanted.adapter.metadata},
        "prompts": digest(prompts),
    }
    shares = wanted.shares_latents()
    other = wanted.target if shares else wanted.source  # pictures are sampled on the source's own levels
    own = teaching if shares else replace(teaching, target_steps=0)
    with_plain, cache = settings.match == "differences", teacher_cache(changes)
    found = taught(wanted.source, patched, other, prompts, latent, own, with_plain, cache, facts, tell)
    with torch.inference_mode(False):
        if shares:
            return states_taught(found, wanted.source, wanted.target)
        say("the lessons' pictures are decoded and encoded")
        vaes = wanted.source_vae, wanted.target_vae
        return pictures_taught(found, wanted.source, wanted.target, *vaes, teaching)


def _lessons(target: Any, found: Taught, prompts: list[Prompt], settings: RefineSettings, say: Say) -> Lessons:
    """What the student is to answer, beside what the bare target does: on all rows only to match differences."""
    say("the target without a LoRA is asked")
    rows = len(found.teacher) if settings.match == "differences" else found.held_out
    picks = torch.arange(len(found.teacher) - rows, len(found.teacher))
    asked: list[Tensor] = []

    def attempt(offloading: bool) -> None:
        asked.clear()
        in_host(target, found.desk, prompts, {}, settings.batch, lesson, offloading)

    def lesson(student: HostStudent) -> None:
        left = picks
        while len(left):
            some = left[: student.at_once]
            try:
                with torch.no_grad():
                    asked.append(student.answers(some).cpu())
            except RuntimeError as error:
                if not student.lightened(error):
                    raise
                continue
            left = left[len(some) :]

    try:
        with_room(attempt)
    except RuntimeError as error:
        if comfy.model_management.is_oom(error):
            raise NotEnoughMemory(
                f"The target without a LoRA: expected room for one latent at a time, found none left ({error}). Take "
                "a smaller size, or a model in a smaller precision (fp8, GGUF)."
            ) from error
        raise NotMeasurable(
            f"The target on its prompts: expected an answer, found an error ({error}). Connect as target_conditioning "
            "the same prompts by the target's own text encoder, where that is not the source's."
        ) from error
    bare = torch.cat(asked)
    with torch.inference_mode(False):
        wanted = aims(settings.match, found.teacher, found.plain, bare if rows == len(found.teacher) else None)
        lessons = Lessons(wanted, found.desk.levels, found.held_out, bare[-found.held_out :])
    _require_a_way(lessons)
    return lessons


def _require_a_way(lessons: Lessons) -> None:
    """NotMeasurable where the bare target answers as it is to answer already."""
    some = slice(lessons.seen(), None)
    way = difference(lessons.bare, lessons.aims[some], lessons.levels[some])
    if float(way.square().mean().sqrt()) < SAME_ANSWER:
        raise NotMeasurable(
            "The target without a LoRA: expected answers that are to change, found those that it is to learn. There is "
            "nothing to refine: is the LoRA merged into the target, or without effect on the source?"
        )


def _refined(
    wanted: Wanted, start: Refinable, target: HostBase, settings: RefineSettings, best: Best, before: float
) -> Adapter:
    """The adapter with refined factors; its metadata tell where it came from."""
    tensors = start.tensors(best.deltas)
    origin = wanted.adapter if start.start is None else start.start
    entry = {"steps": best.step, "match": settings.match, "score": round(best.score, 4), "before": round(before, 4)}
    metadata = refined_metadata(origin.metadata, tensors, entry, target)
    name = f"{origin.name} refined on {target.name}"
    return Adapter(name, fingerprint_of(tensors), metadata, tensors=tensors, fits=start.fits)


def _notes(wanted: Wanted, on_source: Applied, prompts: list[Prompt], teaching: TeacherSettings) -> tuple[str, ...]:
    notes = [
        f"the connected {name} model has {len(model.patches)} patched weights already: they count as part of it"
        for name, model in (("source", wanted.source), ("target", wanted.target))
        if model.patches
    ]
    if (left := len(prompts) - teaching.samples) > 0:
        notes.append(f"the last {left} of {len(prompts)} prompts are left out: there are {teaching.samples} samplings")
    if on_source.left:
        notes.append(f"the LoRA on the source: {on_source.summary()}")
    if OF_TEXT_ENCODER in on_source.left.values():
        notes.append("the LoRA's part on text encoders is not taught: the conditioning is taken as it is connected")
    return tuple(notes)
