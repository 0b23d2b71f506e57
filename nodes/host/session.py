"""The running ComfyUI: its progress bar, its cancel button, and the texts and pictures on its nodes."""

from typing import Any

import comfy.model_management
import comfy.utils
import numpy
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image
from server import PromptServer

from ...core.progress import Progress
from ...core.resources import Resources
from .device import machine_resources


def resources() -> Resources:
    """What a node may use: ComfyUI's device, workers, the cache, and the progress bar."""
    return machine_resources(host_progress())


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
