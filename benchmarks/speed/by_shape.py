"""Every shape of a model by itself: our transfer of a layer pair, cold and warm, beside three ways to decompose it."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from core.resources import Resources

from .clock import Cost, best_of, timed
from .ours import cache_in, carry_over
from .rivals import RIVALS, default_bytes, published
from .weights import FileBase, Shape, lora_on, matrix_shape, write_pair

_SMALL = 2_500_000  # values; of smaller weights several are timed at once
_LARGEST_DEFAULT = 12e9  # bytes that torch's default may take on a machine of 24 GB


@dataclass(frozen=True)
class ShapeCost:
    """CPU-seconds for one matrix (ours: half of a layer pair); None where a rival was not run."""

    shape: Shape
    ours: float
    warm: float
    rivals: Mapping[str, float | None]


def measure_shapes(
    shapes: Iterable[Shape], folder: Path, device: torch.device, *, longest_default: int
) -> list[ShapeCost]:
    """Ours on the device, the rivals on the same; (b) only up to a longest side, for its bases grow with its square."""
    costs: list[ShapeCost] = []
    for shape in sorted(shapes, key=lambda one: one[0] * matrix_shape(one)[1]):
        costs.append(_measure(shape, folder, device, longest_default))
        words = [f"{name} {value:.3f}" if value else f"{name} -" for name, value in costs[-1].rivals.items()]
        print(f"  {shape}: ours {costs[-1].ours:.3f}, warm {costs[-1].warm:.4f}, {', '.join(words)}", flush=True)
    return costs


def _measure(shape: Shape, folder: Path, device: torch.device, longest_default: int) -> ShapeCost:
    rows, columns = matrix_shape(shape)
    copies = 6 if rows * columns < _SMALL else 1
    source, target = write_pair(folder / "pair", {f"layer{index}": shape for index in range(copies)})
    cold = min(_cold(source, target, folder / "cache", device) for _ in range(2))
    warm = _seconds(best_of(3, lambda: _carry(source, target, folder / "cache", device, seed=7)), device)
    weight = source.read(source.layers["layer0"]).to(device)
    rivals: dict[str, float | None] = {}
    for name, rival in RIVALS.items():
        affordable = max(rows, columns) <= longest_default and default_bytes(rows, columns) < _LARGEST_DEFAULT
        if name == "default" and not affordable:
            rivals[name] = None
            continue
        tries = 3 if rows * columns < _SMALL else 1
        rivals[name] = _seconds(best_of(tries, lambda rival=rival: _finish(rival, weight)), device)
    other, delta = target.read(target.layers["layer0"]).to(device), lora_on(source, 5)["layer0"].to(device).dense()
    pair = _seconds(best_of(2, lambda: _finish(lambda weight: published(weight, other, delta), weight)), device)
    rivals["published"] = pair / 2
    return ShapeCost(shape, cold / (2 * copies), warm / (2 * copies), rivals)


def _seconds(cost: Cost, device: torch.device) -> float:
    """CPU-seconds, or on a card those of the wall."""
    return cost.wall if device.type == "cuda" else cost.cpu


def _cold(source: FileBase, target: FileBase, folder: Path, device: torch.device) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    return _seconds(timed(lambda: _carry(source, target, folder, device, seed=5))[1], device)


def _carry(source: FileBase, target: FileBase, folder: Path, device: torch.device, seed: int) -> None:
    using = Resources.on(device, 1, cache_in(folder), silent)
    carry_over(source, target, lora_on(source, seed), using)


def silent(done: int, total: int, layer: str) -> None:
    """Nobody waits for the layers of a benchmark."""


def _finish(rival: Callable[[torch.Tensor], object], weight: torch.Tensor) -> None:
    rival(weight)
    if weight.device.type == "cuda":
        torch.cuda.synchronize()


def total(costs: Iterable[ShapeCost], counts: Mapping[Shape, int], which: str) -> float:
    """CPU-seconds of a model's matrices of the measured shapes. Where (b) was not run the thin SVD stands for it."""
    seconds = 0.0
    for cost in costs:
        value = {"ours": cost.ours, "warm": cost.warm, **cost.rivals}[which]
        seconds += counts.get(cost.shape, 0) * float(value or cost.rivals["thin"] or 0.0)
    return seconds
