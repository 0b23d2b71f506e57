"""Refine on the emoji models: a transferred LoRA on the pruned child, and one from zeros."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from safetensors.torch import load_file

from . import ours
from .bare import ROOT
from .parts import Row, Setting

_WEIGHTS = ROOT / "benchmarks/quality/weights"
PROMPTS = ROOT / "emoji_prompts.safetensors"
_PROMPTS = 24  # about so many
_SIZE = 64  # pixels
_RUN, _TINY = ours.RefineWords(40, 16, 32, 4, _SIZE), ours.RefineWords(1, 2, 2, 1, _SIZE)


def rows(setting: Setting) -> Iterator[Row]:
    source, pruned = _model("source"), _model("pruned")
    adapter = ours.adapter_at(_WEIGHTS / "loras/emoji_line_art.safetensors")
    started = time.monotonic()
    start = ours.transferred(adapter, source, pruned)
    yield {"what": "transferred to the pruned child", "seconds": time.monotonic() - started}
    for what, first in (("refined on the pruned child", start), ("the same from zeros", None)):
        words = _TINY if setting.tiny else _RUN
        measured = ours.refined(source, pruned, adapter, first, _conditioning(), words, lambda text: None, _vae())
        yield {
            "what": what,
            "gap closed at the start": measured.before,
            "gap closed": measured.score,
            "steps": measured.steps,
            "pictures on the way": measured.pictures,
            "teacher s": measured.teaching,
            "training s": measured.seconds,
            "notes": list(measured.notes),
        }


def _model(name: str) -> Any:
    import comfy.sd

    return comfy.sd.load_diffusion_model(str(_WEIGHTS / f"diffusion_models/emoji_{name}.safetensors"))


def _vae() -> Any:
    """It decodes the pictures on the way, beside the model in training."""
    import comfy.sd

    return comfy.sd.VAE(sd=load_file(_WEIGHTS / "vae/emoji_vae.safetensors"))


def some_prompts() -> dict[str, torch.Tensor]:
    """context (prompts, 10, 384) and pooled (prompts, 384) of a few subjects; a packed folder brings no others."""
    if PROMPTS.is_file():
        return load_file(PROMPTS)
    known = load_file(_WEIGHTS / "emoji_prompts/emoji_prompts.safetensors")
    return {key: value[:: len(value) // _PROMPTS].contiguous() for key, value in known.items()}


def _conditioning() -> Any:
    """Prompts as the demo's node gives them: one entry, a row for each."""
    some = some_prompts()
    return [[some["context"].float(), {"pooled_output": some["pooled"].float()}]]
