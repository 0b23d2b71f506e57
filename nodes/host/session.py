"""The running ComfyUI: its device, its progress bar, its cancel button."""

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

# Bytes that a worker may take at the layers of the largest models (measured: benchmarks/speed), and the most that help:
# beyond these the memory's bandwidth is what limits them.
_WORKER_MEMORY, _MOST_WORKERS = 1.5e9, 16
_CARD_WORKERS = 3  # one computes, the others read the next layers
_CARD_MEMORY = 3e9  # bytes that a layer of the largest models takes on a card, in float64


def resources() -> Resources:
    """What a node may use: ComfyUI's device, as many workers as the memory allows, the cache, the progress bar."""
    device = comfy.model_management.get_torch_device()
    if device.type != "cuda":  # Apple's, Intel's and other cards have no float64, or no eigensolver
        device = torch.device("cpu")
    if device.type == "cpu":
        allowed = int(psutil.virtual_memory().available / _WORKER_MEMORY)
        workers = max(1, min(os.cpu_count() or 1, allowed, _MOST_WORKERS))
    else:
        workers = _CARD_WORKERS
        comfy.model_management.free_memory(_CARD_MEMORY, device)  # a sampling model that fills the card makes room
    return Resources.on(device, workers, subspace_cache(), host_progress())


def show(node_id: str, text: str) -> None:
    """A line of text on a node, in the canvas and in Nodes 2.0, as ComfyUI's own nodes show theirs."""
    PromptServer.instance.send_progress_text(text, node_id)


def host_progress() -> Progress:
    """A progress bar with one step per layer. Raises the host's own interruption when the user cancels."""
    bar = comfy.utils.ProgressBar(1)  # the total comes with the first step

    def report(done: int, total: int, layer: str) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, max(1, total))

    return report


def show_picture(picture: numpy.ndarray, total: int) -> None:
    """A picture of bytes (height, width, 3) on the node that runs, its progress bar of `total` steps being full: the
    page lays a run's last preview over what the node gives out."""
    bar = comfy.utils.ProgressBar(total)
    bar.update_absolute(total, total, ("PNG", Image.fromarray(picture), None))


def image_of(picture: numpy.ndarray) -> torch.Tensor:
    """A picture of bytes (height, width, 3) as ComfyUI's IMAGE (1, height, width, 3), float32 in [0, 1]."""
    return torch.from_numpy(picture.copy()).float().div(255).unsqueeze(0)


def block_if_none(pictures: torch.Tensor | None) -> Any:
    """An output that is not there: nodes after it do not run, and it is no error."""
    return ExecutionBlocker(None) if pictures is None else pictures
