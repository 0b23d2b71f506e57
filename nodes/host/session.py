"""The running ComfyUI: its device, its progress bar, its cancel button."""

import comfy.model_management
import comfy.utils
import torch
from server import PromptServer

from ...core.progress import Progress


def compute_device() -> torch.device:
    """The device that ComfyUI computes on."""
    return comfy.model_management.get_torch_device()


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
