"""Seconds of refining beside those of training the LoRA on the target from drawings, one right after the other."""

import tempfile
import time
from pathlib import Path

from ..quality.bases import BATCH, LORAS
from ..quality.training import denoising_loss, train_lora
from .pairs import Pair, Run

_PART = 10  # the training is timed on one step of so many


def timed(pair: Pair, run: Run) -> dict[str, float]:
    """training: of the whole course, from a part of it; teaching and refining: whole."""
    made = pair.refined(run, kept := {})
    (taught,) = kept.values()
    course, target = LORAS[pair.lora], pair.target
    loss = denoising_loss(target.family, target.latents, (course.style,), target.latents.seen, BATCH, 0)
    with tempfile.TemporaryDirectory() as folder:
        path, steps = Path(folder) / "lora.safetensors", course.steps // _PART
        started = time.monotonic()
        train_lora("timed", target.family, pair.models[1], pair.weights, loss, course.rank, steps, course.rate, path, 0)
        seconds = time.monotonic() - started
    return {"training": seconds * _PART, "teaching": taught.seconds, "refining": made.seconds}
