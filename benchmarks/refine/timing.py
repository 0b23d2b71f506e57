"""Times refining and training a LoRA from drawings on the same target, one right after the other."""

import tempfile
import time
from pathlib import Path

from ..quality.bases import BATCH, LORAS
from ..quality.training import denoising_loss, train_lora
from .pairs import Pair, Run

_PART = 10  # only a tenth of the training's steps are timed


def time_run(pair: Pair, run: Run) -> dict[str, float]:
    """Seconds of teaching and refining, and of training, extrapolated from a part of its steps."""
    refined = pair.refine(run, cache := {})
    (samples,) = cache.values()
    course, target = LORAS[pair.lora], pair.target
    loss = denoising_loss(target.family, target.latents, (course.style,), target.latents.seen, BATCH, 0)
    with tempfile.TemporaryDirectory() as folder:
        path, steps = Path(folder) / "lora.safetensors", course.steps // _PART
        started = time.monotonic()
        train_lora("timed", target.family, pair.models[1], pair.weights, loss, course.rank, steps, course.rate, path, 0)
        seconds = time.monotonic() - started
    return {"training": seconds * _PART, "teaching": samples.seconds, "refining": refined.seconds}
