"""Makes a LoRA-X of a plain LoRA without data: the base with the LoRA teaches the base with a LoRA-X."""

from pathlib import Path

import torch
from torch import Tensor

from core.refine.loop import RefineSettings
from core.refine.teacher_samples import SAMPLINGS

from ..refine.student import refine_lora, sample_teacher
from .engine import Factors
from .families import Family, State
from .latents import Latents
from .training import Inside, layers_of_a_lora, load_lora, save_lora, start_delta


def distil(
    family: Family, latents: Latents, base: State, lora: Factors, rank: int, inside: Inside, path: Path, seed: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Reads the LoRA-X from `path`, or makes it with the settings of Refine LoRA."""
    if not path.is_file():
        model, generator = family.build("whole"), torch.Generator().manual_seed(seed)
        contexts = latents.context[latents.seen]
        samples = sample_teacher(family, model, base, lora, contexts, SAMPLINGS, seed)
        start = {key: start_delta(base[key], rank, inside, generator) for key in layers_of_a_lora(base)}
        refined = refine_lora(family, model, base, samples, start, RefineSettings(steps=160, patience=0, seed=seed))
        print(f"{path.stem}: score {refined.last.best.score:.3f} at step {refined.last.best.step}", flush=True)
        save_lora(refined.factors, path)
    return load_lora(path)
