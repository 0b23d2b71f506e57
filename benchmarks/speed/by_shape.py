"""Measures each shape of a model: our transfer of a layer pair, cold and warm, beside three decompositions."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from core.resources import Resources

from .clock import Cost, best_of, measure_time
from .ours import cache_in, transfer_layers
from .rivals import RIVALS, default_bytes, transfer_as_published
from .weights import FileBase, Shape, lora_on, matrix_shape, write_pair

_SMALL = 2_500_000  # values; several weights smaller than this are timed at once
_LARGEST_DEFAULT = 12e9  # bytes that torch's default SVD may use on a machine with 24 GB


@dataclass(frozen=True)
class ShapeCost:
    """CPU-seconds for one matrix; ours is half of a layer pair. None: the rival was not run."""

    shape: Shape
    ours: float
    warm: float
    rivals: Mapping[str, float | None]


def measure_shapes(
    shapes: Iterable[Shape], folder: Path, device: torch.device, *, longest_default: int
) -> list[ShapeCost]:
    """Measures ours and the rivals. (b) runs only up to a longest side, whose square its bases grow with."""
    costs: list[ShapeCost] = []
    for shape in sorted(shapes, key=lambda shape: shape[0] * matrix_shape(shape)[1]):
        costs.append(_measure(shape, folder, device, longest_default))
        texts = [f"{name} {value:.3f}" if value else f"{name} -" for name, value in costs[-1].rivals.items()]
        print(f"  {shape}: ours {costs[-1].ours:.3f}, warm {costs[-1].warm:.4f}, {', '.join(texts)}", flush=True)
    return costs


def _measure(shape: Shape, folder: Path, device: torch.device, longest_default: int) -> ShapeCost:
    rows, columns = matrix_shape(shape)
    copies = 6 if rows * columns < _SMALL else 1
    source, target = write_pair(folder / "pair", {f"layer{index}": shape for index in range(copies)})
    cold = min(_measure_cold(source, target, folder / "cache", device) for _ in range(2))
    warm = _seconds(best_of(3, lambda: _transfer(source, target, folder / "cache", device, seed=7)), device)
    weight = source.read(source.layers["layer0"]).to(device)
    rivals: dict[str, float | None] = {}
    for name, rival in RIVALS.items():
        affordable = max(rows, columns) <= longest_default and default_bytes(rows, columns) < _LARGEST_DEFAULT
        if name == "default" and not affordable:
            rivals[name] = None
            continue
        tries = 3 if rows * columns < _SMALL else 1
        rivals[name] = _seconds(best_of(tries, lambda rival=rival: _finish(rival, weight)), device)
    target_weight, delta = (
        target.read(target.layers["layer0"]).to(device),
        lora_on(source, 5)["layer0"].to(device).dense(),
    )
    pair = _seconds(
        best_of(2, lambda: _finish(lambda weight: transfer_as_published(weight, target_weight, delta), weight)), device
    )
    rivals["published"] = pair / 2
    return ShapeCost(shape, cold / (2 * copies), warm / (2 * copies), rivals)


def _seconds(cost: Cost, device: torch.device) -> float:
    """CPU-seconds; on a card wall seconds."""
    return cost.wall if device.type == "cuda" else cost.cpu


def _measure_cold(source: FileBase, target: FileBase, folder: Path, device: torch.device) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    return _seconds(measure_time(lambda: _transfer(source, target, folder, device, seed=5))[1], device)


def _transfer(source: FileBase, target: FileBase, folder: Path, device: torch.device, seed: int) -> None:
    using = Resources.on(device, 1, cache_in(folder), silent)
    transfer_layers(source, target, lora_on(source, seed), using)


def silent(done: int, total: int, layer: str) -> None:
    """A progress callback that shows nothing."""


def _finish(rival: Callable[[torch.Tensor], object], weight: torch.Tensor) -> None:
    rival(weight)
    if weight.device.type == "cuda":
        torch.cuda.synchronize()


def total(costs: Iterable[ShapeCost], counts: Mapping[Shape, int], which: str) -> float:
    """CPU-seconds for a model's matrices of the measured shapes. Where (b) was not run, the thin SVD counts instead."""
    seconds = 0.0
    for cost in costs:
        value = {"ours": cost.ours, "warm": cost.warm, **cost.rivals}[which]
        seconds += counts.get(cost.shape, 0) * float(value or cost.rivals["thin"] or 0.0)
    return seconds
