"""The running ComfyUI: its device, its progress bar, its cancel button."""

import comfy.model_management
import comfy.utils
import torch

from ...core.progress import Progress


def compute_device() -> torch.device:
    """The device that ComfyUI computes on."""
    return comfy.model_management.get_torch_device()


def host_progress(total: int) -> Progress:
    """A progress bar with one step per layer. Raises the host's own interruption when the user cancels."""
    bar = comfy.utils.ProgressBar(max(1, total))

    def report(done: int, total: int, layer: str) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done)

    return report
