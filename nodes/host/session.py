"""The running ComfyUI: its device, its progress bar, its cancel button, and the texts and pictures on its nodes."""

import os
from typing import Any

import comfy.model_management
import comfy.utils
import numpy
import psutil
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image
from server import PromptServer

from ...core.progress import Progress
from ...core.resources import Resources
from .settings import subspace_cache

_WORKER_MEMORY = 1.5e9  # bytes that a worker needs for the layers of the largest models (measured: benchmarks/speed)
_MOST_WORKERS = 16  # more do not help: the memory's bandwidth is the limit then
_CARD_WORKERS = 3  # one worker computes, the others read the next layers
_CARD_MEMORY = 3e9  # bytes that a layer of the largest models needs on a card, in float64


def resources() -> Resources:
    """What a node may use: ComfyUI's device, as many workers as the memory allows, the cache, the progress bar."""
    device = comfy.model_management.get_torch_device()
    if device.type != "cuda":  # cards of Apple, Intel and others lack float64 or an eigensolver
        device = torch.device("cpu")
    if device.type == "cpu":
        allowed = int(psutil.virtual_memory().available / _WORKER_MEMORY)
        workers = max(1, min(os.cpu_count() or 1, allowed, _MOST_WORKERS))
    else:
        workers = _CARD_WORKERS
        comfy.model_management.free_memory(_CARD_MEMORY, device)  # unloads models that fill the card
    return Resources.on(device, workers, subspace_cache(), host_progress())


def show(node_id: str, text: str) -> None:
    """Show a text on a node, in the canvas and in Nodes 2.0, as ComfyUI's own nodes do."""
    PromptServer.instance.send_progress_text(text, node_id)


def host_progress() -> Progress:
    """ComfyUI's progress bar, with one step per layer. Raises ComfyUI's interruption when the user cancels."""
    bar = comfy.utils.ProgressBar(1)  # the total comes with the first step

    def report(done: int, total: int, layer: str) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, max(1, total))

    return report


def show_picture(picture: numpy.ndarray, total: int) -> None:
    """Show a picture of bytes (height, width, 3) as the last preview of the running node, with its progress bar of
    `total` steps full. Otherwise the page keeps an older preview on top of the node's own output."""
    bar = comfy.utils.ProgressBar(total)
    bar.update_absolute(total, total, ("PNG", Image.fromarray(picture), None))


def image_of(picture: numpy.ndarray) -> torch.Tensor:
    """A picture of bytes (height, width, 3) as ComfyUI's IMAGE (1, height, width, 3), float32 in [0, 1]."""
    return torch.from_numpy(picture.copy()).float().div(255).unsqueeze(0)


def block_if_none(pictures: torch.Tensor | None) -> Any:
    """The pictures as an output. Without any, nodes that depend on them do not run, and there is no error."""
    return ExecutionBlocker(None) if pictures is None else pictures
