"""Estimates whether refining is worth it on a pair of bases, and what it costs on this device."""

import time

import comfy.model_management
import torch

from ....core.pair_kinds import PairKind
from ....core.refine.outlook import Device, Outlook, advise, estimate_cost, measure_size
from ....core.refine.speeds import CARD, PROCESSOR
from ....core.verdict import Verdict
from ..base.from_model import HostBase
from ..sampling.picture_size import size_for_family

_SIDE, _SIDE_ON_CPU = 4096, 1024  # of the matrices in the timed product, which takes 0.2 ms to 30 ms
_TIMES = 4  # the first run warms the device up
_TOGETHER = 16  # products between two waits for a card: a wait takes as long as one product on a fast card


def estimate_outlook(verdict: Verdict | None, kind: PairKind | None, target: HostBase) -> Outlook | None:
    """Estimate a run of Refine LoRA with its default settings on ComfyUI's device; None without a verdict on the
    pair."""
    if verdict is None or kind is None:
        return None
    size = measure_size(target)
    cost = estimate_cost(size, measure_device(), size_for_family(target.family, size.parameters))
    return Outlook(advise(kind, verdict.word), cost)


def measure_device() -> Device:
    """ComfyUI's device with its memory and its speed, from a timed matrix product in the precision of models."""
    device = comfy.model_management.get_torch_device()
    memory = float(comfy.model_management.get_total_memory(device))  # pyright: ignore[reportArgumentType]  (no pair unless asked)
    if comfy.model_management.is_device_cpu(device):
        speed = PROCESSOR.of_product * _speed(device, _SIDE_ON_CPU, torch.float32, 1)
        return Device("this processor", speed, memory, PROCESSOR.measured_on)
    speed = CARD.of_product * _speed(device, _SIDE, _precision(device), _TOGETHER)
    return Device("this card", speed, memory, CARD.measured_on)


def _precision(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if comfy.model_management.should_use_bf16(device) else torch.float16


def _speed(device: torch.device, side: int, dtype: torch.dtype, together: int) -> float:
    """Operations per second, from the quickest of a few runs. The matrices are noise, because cards are faster on equal
    numbers."""
    generator = torch.Generator(device).manual_seed(0)
    matrix, seconds = torch.randn(side, side, generator=generator, device=device).to(dtype), list[float]()
    product = torch.empty_like(matrix)
    for _ in range(_TIMES):
        started = time.perf_counter()
        for _ in range(together):
            torch.mm(matrix, matrix, out=product)
        float(product[0, 0])  # reading a value waits for the device
        seconds.append(time.perf_counter() - started)
    return together * 2 * side**3 / min(seconds)
