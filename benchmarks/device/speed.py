"""What transferring a LoRA between two SDXL models costs on this machine, from files, as users have it."""

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from core.cache import SubspaceCache
from core.resources import CPU, Resources
from core.similarity import Measure

from ..speed.clock import measure_time, resident
from ..speed.ours import cache_in, transfer_layers
from ..speed.rivals import transfer_as_published
from ..speed.weights import FileBase, lora_on
from .bases import SMALL, layers_of, write_pair
from .card import peak_of, wait
from .parts import Row, Setting

_CARD_WORKERS, _MOST_WORKERS = 3, 16  # as nodes/host/session has them
_SAMPLE = 16  # every so-manieth layer, to see what fits into the time
_STARTED = 10  # seconds that the process has taken already to start
_SPARE = 0.7  # share of the time left that a run may be expected to take
_GROWS = 4  # times that the next shape takes at most
_BY_SHAPE = ((640, 640, 1, 1), (1280, 1280, 1, 1), (1280, 2048, 1, 1), (1280, 5120, 1, 1))


@dataclass(frozen=True)
class _Way:
    """name, and the words for transfer_layers; keeps: whether decomposed weights are kept on disk."""

    name: str
    measure: Measure
    method: str
    keeps: bool


_DEFAULT = _Way("default path", "weight_cosine", "restore_both", keeps=False)
_DECOMPOSED = _Way("decomposition, k = 320", "subspace", "prolora", keeps=True)


def rows(setting: Setting) -> Iterator[Row]:
    """A sample on the device and on the processor; then the default path, and as much of the decomposition on each as
    fits into the time, the faster first."""
    ends = time.monotonic() + setting.seconds - _STARTED
    device = torch.device(setting.device)
    sample = SMALL if setting.tiny else layers_of("SDXL", _SAMPLE)
    pair = write_pair(setting.folder / "sample", sample, setting.device)
    one_layer = dict(list(lora_on(pair[0], 1).items())[:1])
    transfer_layers(*pair, one_layer, _resources(device, None))  # loads the libraries
    costs: dict[torch.device, float] = {}
    for where in dict.fromkeys((device, CPU)):
        row = _measured(_DECOMPOSED, pair, where, setting.folder)
        costs[where] = row["first LoRA, s"]
        yield row
    if setting.tiny:
        return
    pair = write_pair(setting.folder / "whole", layers_of("SDXL", 1), setting.device)
    for where in costs:
        yield _measured(_DEFAULT, pair, where, setting.folder)
    for where in sorted(costs, key=lambda place: costs[place]):
        every = _affordable(costs[where] * _SAMPLE, _SPARE * (ends - time.monotonic()))
        if every < _SAMPLE:
            part = pair if every == 1 else _every(pair, every)
            yield _measured(_DECOMPOSED, part, where, setting.folder)


def _affordable(seconds: float, left: float) -> int:
    """Every so-manieth layer: so many are left out that the rest fits."""
    every = 1
    while seconds / every > left and every < _SAMPLE:
        every *= 2
    return every


def _every(pair: tuple[FileBase, FileBase], every: int) -> tuple[FileBase, FileBase]:
    """The same bases with a part of their layers."""
    source, target = (replace(base, layers=dict(list(base.layers.items())[every // 2 :: every])) for base in pair)
    return source, target


def _measured(way: _Way, pair: tuple[FileBase, FileBase], device: torch.device, folder: Path) -> dict[str, Any]:
    """Seconds of the wall for a first LoRA and for a second, and peak memory of the card and of the process."""
    using = _resources(device, cache_in(folder / "cache") if way.keeps else None)
    loras = [lora_on(pair[0], seed) for seed in (1, 2)]
    _reset_resident()
    before = resident("VmRSS")

    def carry(lora: Any) -> None:
        transfer_layers(*pair, lora, using, measure=way.measure, method=way.method)
        wait(device.type)

    (_, first), peak = peak_of(lambda: measure_time(lambda: carry(loras[0])))
    second = measure_time(lambda: carry(loras[1]))[1]
    shutil.rmtree(folder / "cache", ignore_errors=True)
    return {
        "what": f"{way.name}, on {device.type}",
        "layers": len(pair[0].layers),
        "workers": using.workers,
        "first LoRA, s": first.wall,
        "second LoRA, s": second.wall,
        "card, GB": peak if device.type == "cuda" else None,
        "main memory, GB": (resident("VmHWM") - before) / 1e9,
        "notes": list(using.notes.values()),
    }


def _resources(device: torch.device, cache: SubspaceCache | None) -> Resources:
    workers = _CARD_WORKERS if device.type == "cuda" else min(os.cpu_count() or 1, _MOST_WORKERS)
    return Resources.on(device, workers, cache, lambda done, total, layer: None)


def _reset_resident() -> None:
    """The peak starts anew, where the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def published_rows(setting: Setting) -> Iterator[Row]:
    """One matrix by ours (half of a pair, cold) and by the published procedure on the same device."""
    ends, device = time.monotonic() + setting.seconds - _STARTED, torch.device(setting.device)
    shapes = ((96, 96, 1, 1),) if setting.tiny else _BY_SHAPE
    for shape in shapes:
        source, target = write_pair(setting.folder / "shape", {"layer": shape}, setting.device)
        lora = lora_on(source, 1)
        weights = [base.read(base.layers["layer"]).to(device) for base in (source, target)]
        dense, seconds = lora["layer"].to(device).dense(), list[float]()

        using = _resources(device, None)

        def ours(source: FileBase = source, target: FileBase = target, lora: Any = lora, using: Any = using) -> None:
            transfer_layers(source, target, lora, using, method="prolora")

        def theirs(weights: list[torch.Tensor] = weights, dense: torch.Tensor = dense) -> None:
            transfer_as_published(weights[0], weights[1], dense)

        for work in (ours, theirs):
            if work is ours or shape == shapes[0]:  # loads the libraries; ours chooses its eigensolver for the shape
                work()
            wait(setting.device)
            _, cost = measure_time(lambda work=work: (work(), wait(setting.device)))
            seconds.append(cost.wall / 2)
        row = {"what": f"{shape[0]} x {weights[0].shape[1]}", "ours, s": seconds[0], "published, s": seconds[1]}
        yield row | {"times": seconds[1] / seconds[0]}
        if time.monotonic() + _GROWS * 2 * sum(seconds) > ends:
            return
