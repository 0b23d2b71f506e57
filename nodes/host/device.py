"""What a run may use of this machine: ComfyUI's device, workers, and the cache of decomposed bases."""

import os

import comfy.model_management
import psutil
import torch

from ...core.progress import Progress
from ...core.resources import Resources
from .settings import subspace_cache

_WORKER_MEMORY = 1.5e9  # bytes that a worker needs for the layers of the largest models (measured: benchmarks/speed)
_MOST_WORKERS = 16  # more do not help: the memory's bandwidth is the limit then
_CARD_WORKERS = 3  # one worker computes, the others read the next layers
_CARD_MEMORY = 3e9  # bytes that a layer of the largest models needs on a card, in float64


def machine_resources(progress: Progress, workers: int | None = None) -> Resources:
    """ComfyUI's device, as many workers as asked for, or as the memory allows, and the cache."""
    device = comfy.model_management.get_torch_device()
    if device.type != "cuda":  # cards of Apple, Intel and others lack float64 or an eigensolver
        device = torch.device("cpu")
    if device.type == "cpu":
        allowed = int(psutil.virtual_memory().available / _WORKER_MEMORY)
        most = max(1, min(os.cpu_count() or 1, allowed, _MOST_WORKERS))
    else:
        most = _CARD_WORKERS
        comfy.model_management.free_memory(_CARD_MEMORY, device)  # unloads models that fill the card
    return Resources.on(device, workers or most, subspace_cache(), progress)
