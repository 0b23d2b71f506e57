"""Refine on the emoji models: a transferred LoRA on the pruned child, and one from zeros."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from safetensors import safe_open

from . import ours
from .bare import ROOT
from .parts import Row, Setting

_WEIGHTS = ROOT / "benchmarks/quality/weights"
_PROMPTS = 24  # every fifth of those that are there
_SIZE = 64  # pixels
_RUN, _TINY = ours.RefineWords(80, 16, 64, 4, _SIZE), ours.RefineWords(1, 2, 2, 1, _SIZE)


def rows(setting: Setting) -> Iterator[Row]:
    source, pruned = _model("source"), _model("pruned")
    adapter = ours.adapter_at(_WEIGHTS / "loras/emoji_line_art.safetensors")
    started = time.monotonic()
    start = ours.transferred(adapter, source, pruned)
    yield {"what": "transferred to the pruned child", "seconds": time.monotonic() - started}
    for what, first in (("refined on the pruned child", start), ("the same from zeros", None)):
        words = _TINY if setting.tiny else _RUN
        measured = ours.refined(source, pruned, adapter, first, _conditioning(), words, lambda text: None)
        yield {
            "what": what,
            "gap closed at the start": measured.before,
            "gap closed": measured.score,
            "steps": measured.steps,
            "teacher s": measured.teaching,
            "training s": measured.seconds,
            "notes": list(measured.notes),
        }


def _model(name: str) -> Any:
    import comfy.sd

    return comfy.sd.load_diffusion_model(str(_WEIGHTS / f"diffusion_models/emoji_{name}.safetensors"))


def _conditioning() -> Any:
    """Prompts as the demo's node gives them: one entry, a row for each."""
    with safe_open(_WEIGHTS / "emoji_prompts/emoji_prompts.safetensors", "pt") as file:
        context, pooled = (file.get_tensor(key).float() for key in ("context", "pooled"))
    chosen = torch.arange(0, len(context), max(1, len(context) // _PROMPTS))
    return [[context[chosen], {"pooled_output": pooled[chosen]}]]
