"""A whole refinement: samples the teacher, trains the target and keeps the best factors."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.utils
import torch

from ....core.errors import NotMeasurable
from ....core.refine.loop import BestFactors, RefineSettings
from ....core.reports.envelope import Identity
from ....core.reports.refine import RefineReport
from ..adapter.adapter import Adapter, fingerprint_of
from ..adapter.apply import ApplyResult, apply
from ..adapter.group import OF_TEXT_ENCODER
from ..adapter.metadata import refined_metadata
from ..base.from_model import HostBase, base_from_model
from ..base.merge import note_patched_weights
from ..sampling.conditioning import Prompt, UnknownContent, hash_prompts, split_conditioning
from ..sampling.noise import latent_space
from ..sampling.outputs import latents_of
from ..source_doubts import doubt_source
from ..swapped import require_target
from ..training.previews import Previews
from ..training.start import StartingPoint, start_from_adapter, start_from_zeros
from ..training.train import Training, TrainingResult
from .bare_answers import add_bare_answers
from .inputs import TargetSamples, convert_pictures, convert_states, require_convertible
from .teacher import Teacher, TeacherSettings, sample_teacher
from .teacher_cache import describe_changes, open_teacher_cache

Say = Callable[[str], None]


@dataclass(frozen=True)
class RefineInputs:
    """The node's connected inputs. transferred: the LoRA to start from, None to start from zeros; target_vae:
    decodes the previews; with source_vae: converts pictures between models with different latents."""

    source: Any
    target: Any
    adapter: Adapter
    conditioning: Any
    transferred: Adapter | None = None
    target_conditioning: Any = None
    latent: Mapping[str, Any] | None = None
    target_vae: Any = None
    source_vae: Any = None

    def shares_latents(self) -> bool:
        return latent_space(self.source) == latent_space(self.target)


RefineResult = TrainingResult[RefineReport]


@dataclass(frozen=True)
class _Request:
    inputs: RefineInputs
    settings: RefineSettings
    teacher_settings: TeacherSettings
    size: int
    say: Say


def refine_adapter(
    inputs: RefineInputs, settings: RefineSettings, teacher_settings: TeacherSettings, size: int, say: Say
) -> RefineResult:
    """Sample the teacher, then train. If an error or the user ends the training, its best factors are saved."""
    with_vaes = inputs.source_vae is not None and inputs.target_vae is not None
    require_convertible(inputs.source, inputs.target, settings.match, with_vaes)
    request = _Request(inputs, settings, teacher_settings, size, say)
    bases = base_from_model(inputs.source), base_from_model(inputs.target)
    doubts = doubt_source(inputs.adapter, *bases)
    if inputs.transferred is not None:
        doubts = (*require_target(inputs.transferred, *bases), *doubts)
    prompts = _pair_prompts(inputs)
    start = _choose_start(inputs, bases, settings)
    on_source = apply(inputs.adapter, inputs.source, None, 1.0, 0.0)
    samples = _sample_teacher(request, on_source.model, bases[0], prompts[0])
    comfy.model_management.unload_model_and_clones(inputs.source)
    say("measuring the target without a LoRA")
    teacher_samples = add_bare_answers(inputs.target, samples, prompts[1], settings)
    previews = Previews(
        inputs.target, inputs.target_vae, samples.preview_prompt(), settings.seed, teacher_settings.target_steps
    )

    def make_adapter(best: BestFactors, before: float) -> Adapter:
        return _make_adapter(request, start, bases[1], best, before)

    run = Training(teacher_samples, settings, previews, make_adapter, start.tensors, say)
    with torch.inference_mode(False):
        run.run(start.add_untrained(inputs.target), start.trainable(), samples.inputs, prompts[1])
    with run.saving_on_error():
        report = RefineReport(
            source=Identity.of(bases[0]),
            target=Identity.of(bases[1]),
            adapter=Identity.of(inputs.adapter),
            start=None if start.adapter is None else Identity.of(start.adapter),
            settings={**vars(settings), **vars(teacher_settings), "size": list(samples.inputs.states.shape[2:])},
            match=settings.match,
            teacher=samples.account,
            losses=tuple(run.losses),
            scores=run.scores,
            best_step=run.best.step,
            ended=run.ended,
            notes=(*doubts, *_write_notes(request, on_source, prompts[0]), *start.notes, *run.notes, *previews.notes),
            seconds=run.seconds,
        )
        unchanged = start.adapter if run.best.step == 0 else None
        return RefineResult(unchanged or run.adapter(), report, run.pictures, run.saving_on_error)


def _pair_prompts(inputs: RefineInputs) -> tuple[list[Prompt], list[Prompt]]:
    """The same prompts in the same order, for the source and for the target."""
    source = split_conditioning(inputs.conditioning)
    target = split_conditioning(inputs.target_conditioning or inputs.conditioning)
    if len(source) != len(target) or not source:
        raise NotMeasurable(
            f"conditioning and target_conditioning: expected the same prompts for both models, found {len(source)} "
            f"prompts and {len(target)}. Encode the same list with both text encoders."
        )
    return source, target


def _choose_start(inputs: RefineInputs, bases: tuple[HostBase, HostBase], settings: RefineSettings) -> StartingPoint:
    if inputs.transferred is None:
        return start_from_zeros(inputs.adapter, bases, inputs.target, settings.rank, settings.seed)
    return start_from_adapter(inputs.transferred, bases[1], inputs.target, settings.seed)


def _sample_teacher(request: _Request, with_lora: Any, source: HostBase, prompts: list[Prompt]) -> TargetSamples:
    inputs, settings = request.inputs, request.teacher_settings
    bar = comfy.utils.ProgressBar(1)

    def tell(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)
        request.say(f"the source with its LoRA makes teacher samples: {done} of {total} calls done")

    latent = torch.zeros_like(latents_of(inputs.source, inputs.latent, request.size)[:1].float().cpu())
    changes = describe_changes(with_lora), describe_changes(inputs.source)
    hashed = _hash_prompts(prompts)
    facts = {"source": source.fingerprint, "with LoRA": changes[0], "alone": changes[1], "prompts": hashed}
    shares = inputs.shares_latents()
    levels_of = inputs.target if shares else inputs.source  # pictures are sampled at the source's own levels
    own = settings if shares else replace(settings, target_steps=0)
    needs_source = request.settings.match == "differences"
    teacher = Teacher(inputs.source, with_lora, levels_of, prompts, latent, needs_source)
    samples = sample_teacher(teacher, own, open_teacher_cache(*changes, hashed), facts, tell)
    with torch.inference_mode(False):
        if shares:
            return convert_states(samples, inputs.source, inputs.target)
        request.say("converting the teacher's pictures to the target's latents")
        vaes = inputs.source_vae, inputs.target_vae
        return convert_pictures(samples, (inputs.source, inputs.target), vaes, settings)


def _hash_prompts(prompts: list[Prompt]) -> str | None:
    try:
        return hash_prompts(prompts)
    except UnknownContent:
        return None


def _make_adapter(
    request: _Request, start: StartingPoint, target: HostBase, best: BestFactors, before: float
) -> Adapter:
    """The adapter with the refined factors. Its metadata say how it was made."""
    tensors = start.tensors(best.deltas)
    origin = request.inputs.adapter if start.adapter is None else start.adapter
    score = round(best.score, 4) if math.isfinite(best.score) else None  # None: the run ended before a score
    entry = {"steps": best.step, "match": request.settings.match, "score": score, "before": round(before, 4)}
    metadata = refined_metadata(origin.metadata, tensors, entry, target)
    name = f"{origin.name} refined on {target.name}"
    loaded = origin.origin or origin.name
    return Adapter(name, fingerprint_of(tensors), metadata, tensors=tensors, fits=start.base, origin=loaded)


def _write_notes(request: _Request, on_source: ApplyResult, prompts: list[Prompt]) -> tuple[str, ...]:
    inputs, samplings = request.inputs, request.teacher_settings.samples
    notes = note_patched_weights(inputs.source, inputs.target)
    if (left := len(prompts) - samplings) > 0:
        notes.append(f"the last {left} of {len(prompts)} prompts are not used: there are only {samplings} samplings")
    if on_source.not_applied:
        notes.append(f"the LoRA on the source: {on_source.summary()}")
    if OF_TEXT_ENCODER in on_source.not_applied.values():
        notes.append("the LoRA's part for text encoders is not learned: the conditioning is used as it is connected")
    return tuple(notes)
