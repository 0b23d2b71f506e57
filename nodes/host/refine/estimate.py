"""Whether refining is worth it on a pair, with what it will cost here: by how fast the device multiplies."""

import time

import comfy.model_management
import torch

from ....core.refine.outlook import Device, Outlook, advice, cost_of, size_of
from ....core.verdict import Verdict
from ..base.from_model import HostBase

_SMALL_PICTURES = ("SD15", "SD20", "SD21")  # families that paint at 512 px; later ones at 1024
_SIDE, _SIDE_ON_CPU = 4096, 1024  # of the product that is timed: 1 to 30 ms
_TIMES = 4  # the first starts the device up

# Share of a product's speed that a whole model comes to. On a processor measured, 1.0 to 1.2 on a UNet of 0.6 G
# parameters; on cards by judgement, for they differ.
_REACHED, _REACHED_ON_CPU = 0.5, 1.0


def outlook_here(verdict: Verdict | None, target: HostBase) -> Outlook | None:
    """Of a run of Refine LoRA on ComfyUI's device, with its default settings; None without a verdict on the pair."""
    if verdict is None:
        return None
    pixels = 512 if target.family.startswith(_SMALL_PICTURES) else 1024
    return Outlook(advice(verdict), cost_of(size_of(target), device_here(), pixels))


def device_here() -> Device:
    """ComfyUI's device: its memory, and its speed by that of a matrix product in the precision that models run in."""
    device = comfy.model_management.get_torch_device()
    if comfy.model_management.is_device_cpu(device):
        name, speed = "this processor", _REACHED_ON_CPU * _speed(device, _SIDE_ON_CPU, torch.float32)
    else:
        name, speed = "this card", _REACHED * _speed(device, _SIDE, _precision(device))
    return Device(
        name,
        speed,
        float(comfy.model_management.get_total_memory(device)),  # pyright: ignore[reportArgumentType]  (no pair unless asked)
    )


def _precision(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if comfy.model_management.should_use_bf16(device) else torch.float16


def _speed(device: torch.device, side: int, dtype: torch.dtype) -> float:
    """Operations a second, of the quickest of a few products."""
    matrix, seconds = torch.ones(side, side, device=device, dtype=dtype), list[float]()
    for _ in range(_TIMES):
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # reading a value waits for the device
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds)
