"""A whole training on pictures: noises them, trains deltas on the model and keeps the best."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ....core.check import difference
from ....core.errors import NotMeasurable
from ....core.refine.loop import BestFactors, RefineSettings
from ....core.refine.picture_samples import PictureRows, PictureSamples, plan_rows, split_by_shape
from ....core.reports.envelope import Identity
from ....core.reports.train import TrainReport
from ....core.resources import Resources
from ..adapter.adapter import Adapter, fingerprint_of
from ..adapter.metadata import trained_metadata
from ..base.from_model import HostBase, base_from_model
from ..base.merge import note_patched_weights
from ..training.predict import explain_failure, predict_rows
from ..training.previews import Previews
from ..training.train import TRAINING, Training, TrainingResult
from .dataset import Dataset, read_dataset
from .noised_pictures import NoisedPictures, add_noise_to_pictures
from .start import LoraXSettings, LoraXStart, choose_start

DEFAULTS = RefineSettings(steps=500, batch=4, checks=5, patience=0)


@dataclass(frozen=True)
class TrainInputs:
    """The node's connected inputs. latents, captions: lists, as ComfyUI's own nodes for training make them;
    empty_prompt: replaces some captions; transferred: the LoRA to train further; vae: decodes the previews."""

    model: Any
    latents: Sequence[Mapping[str, Any]]
    captions: Sequence[Any]
    empty_prompt: Any = None
    transferred: Adapter | None = None
    vae: Any = None


def train_adapter(
    inputs: TrainInputs, settings: RefineSettings, lora_x: LoraXSettings, using: Resources, say: Callable[[str], None]
) -> TrainingResult[TrainReport]:
    """Train a LoRA on pictures. If an error or the user ends the training, its best factors are saved."""
    model = inputs.model
    with torch.inference_mode(False):
        dataset = read_dataset(model, inputs.latents, inputs.captions, inputs.empty_prompt)
    base = base_from_model(model)
    say("reading the singular directions of the model")
    start = choose_start(model, base, inputs.transferred, lora_x, settings.rank, settings.seed, using)
    with torch.inference_mode(False):
        rows = _plan(dataset, settings)
        pictures = add_noise_to_pictures(model, dataset, rows, settings.seed)
        say("measuring the model without a LoRA")
        samples = _make_samples(model, dataset, pictures, rows, settings.batch)
    previews = Previews(model, inputs.vae, int(pictures.prompts[-1]), settings.seed, 0)
    make_adapter = partial(_make_adapter, start, base, settings, lora_x)
    run = Training(samples, settings, previews, make_adapter, start.point.tensors, say, TRAINING)
    with torch.inference_mode(False):
        run.run(start.point.add_untrained(model), start.trainable, pictures, dataset.prompts)
    with run.saving_on_error():
        adapter = start.point.adapter
        report = TrainReport(
            base=Identity.of(base),
            start=None if adapter is None else Identity.of(adapter),
            settings={**vars(settings), **vars(lora_x)},
            parameterisation=lora_x.parameterisation,
            rule=lora_x.rule,
            directions=start.directions,
            pictures=len(dataset.latents),
            held_out=rows.pictures_held_out,
            losses=tuple(run.losses),
            scores=run.scores,
            best_step=run.best.step,
            ended=run.ended,
            notes=(*note_patched_weights(model, model), *start.notes, *run.notes, *previews.notes),
            seconds=run.seconds,
        )
        unchanged = adapter if run.best.step == 0 else None
        return TrainingResult(unchanged or run.adapter(), report, run.pictures, run.saving_on_error)


def _plan(dataset: Dataset, settings: RefineSettings) -> PictureRows:
    rows = max(1, settings.steps * settings.batch)
    return plan_rows(len(dataset.latents), rows, settings.seed, has_empty_prompt=bool(dataset.without_caption))


def _make_samples(
    model: Any, dataset: Dataset, pictures: NoisedPictures, rows: PictureRows, batch: int
) -> PictureSamples:
    """What the student learns, with the error of the model without a LoRA."""
    samples = PictureSamples(dataset.latents, rows.pictures, pictures.levels, rows.held_out, math.nan)
    count = len(rows.pictures)
    scored = torch.arange(count - rows.held_out, count)

    def measure(part: Tensor, predictions: Tensor) -> float:
        aims, levels = samples.aims(part), pictures.levels[part]
        return float(difference(predictions.cpu(), aims, levels).double().square().sum())

    with explain_failure(
        "The model with the pictures", "The model with the captions", "Encode the captions with this model's own CLIP."
    ):
        split = partial(split_by_shape, dataset.latents, rows.pictures, scored)
        gap = sum(predict_rows(model, pictures, dataset.prompts, batch, split, measure))
    if not math.isfinite(gap):
        raise NotMeasurable(
            "The model without a LoRA: expected finite predictions, found NaN or infinity. Load it in another "
            "precision (bf16 or fp32)."
        )
    return PictureSamples(dataset.latents, rows.pictures, pictures.levels, rows.held_out, gap)


def _make_adapter(
    start: LoraXStart,
    base: HostBase,
    settings: RefineSettings,
    lora_x: LoraXSettings,
    best: BestFactors,
    before: float,
) -> Adapter:
    """The adapter with the trained deltas. Its metadata say how it was made."""
    tensors = start.point.tensors(best.deltas)
    entry = {
        "parameterisation": lora_x.parameterisation,
        "rank_rule": vars(lora_x.rule),
        "directions": start.directions,
        "rank": max(delta.rank for delta in best.deltas.values()),
        "steps": best.step,
        "score": round(best.score, 4) if math.isfinite(best.score) else None,  # None: the run ended before a score
        "before": round(before, 4),
    }
    original = start.point.adapter
    metadata = trained_metadata({} if original is None else original.metadata, tensors, entry, base)
    name = f"{lora_x.parameterisation} LoRA" if original is None else f"{original.name} trained further"
    origin = name if original is None else original.origin or original.name
    return Adapter(name, fingerprint_of(tensors), metadata, tensors=tensors, fits=start.point.base, origin=origin)
