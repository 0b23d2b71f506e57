"""What transferring a LoRA between two SDXL models costs on this machine, from files, as users have it."""

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from core.resources import CPU, Resources

from ..speed.clock import resident, timed
from ..speed.ours import cache_in, carry_over
from ..speed.rivals import published
from ..speed.weights import FileBase, lora_on
from .bases import SMALL, layers_of, write_pair
from .card import peak_of, wait
from .parts import Row, Setting

_CARD_WORKERS, _MOST_WORKERS = 3, 16  # as nodes/host/session has them
_SAMPLE = 16  # every so-manieth layer, to see what fits into the time
_SPARE = 0.7  # share of the time left that a run may be expected to take
_BY_SHAPE = ((640, 640, 1, 1), (1280, 1280, 1, 1), (1280, 2048, 1, 1), (1280, 5120, 1, 1))


@dataclass(frozen=True)
class _Way:
    """name, and the words for carry_over; keeps: whether decomposed weights are kept on disk."""

    name: str
    measure: str
    method: str
    keeps: bool


_DEFAULT = _Way("default path", "weight_cosine", "restore_both", keeps=False)
_DECOMPOSED = _Way("decomposition, k = 320", "subspace", "prolora", keeps=True)


def rows(setting: Setting) -> Iterator[Row]:
    ends = time.monotonic() + setting.seconds
    device = torch.device(setting.device)
    sample = SMALL if setting.tiny else layers_of("SDXL", _SAMPLE)
    pair = write_pair(setting.folder / "sample", sample, setting.device)
    carry_over(*pair, _first(pair), _resources(device, None))  # loads the libraries
    cost = 0.0
    for where in dict.fromkeys((device, CPU)):
        row = _measured(_DECOMPOSED, pair, where, setting.folder)
        cost = cost or float(row["first LoRA, s"])
        yield row
    if setting.tiny:
        return
    pair = write_pair(setting.folder / "whole", layers_of("SDXL", 1), setting.device)
    yield _measured(_DEFAULT, pair, device, setting.folder)
    every = 1
    while cost * _SAMPLE / every > _SPARE * (ends - time.monotonic()) and every < _SAMPLE:
        every *= 2
    if every < _SAMPLE:
        part = pair if every == 1 else write_pair(setting.folder / "part", layers_of("SDXL", every), setting.device)
        yield _measured(_DECOMPOSED, part, device, setting.folder)


def _first(pair: tuple[FileBase, FileBase]) -> dict:
    return dict(list(lora_on(pair[0], 1).items())[:1])


def _measured(way: _Way, pair: tuple[FileBase, FileBase], device: torch.device, folder: Path) -> Row:
    """Seconds of the wall for a first LoRA and for a second, and peak memory of the card and of the process."""
    cache = cache_in(folder / "cache") if way.keeps else None
    using = _resources(device, cache)
    _reset_resident()
    before = resident("VmRSS")

    def carry(seed: int) -> None:
        carry_over(*pair, lora_on(pair[0], seed), using, measure=way.measure, method=way.method)  # pyright: ignore[reportArgumentType]
        wait(device.type)

    (_, first), peak = peak_of(lambda: timed(lambda: carry(1)))
    second = timed(lambda: carry(2))[1]
    row = {
        "what": f"{way.name}, on {device.type}",
        "layers": len(pair[0].layers),
        "workers": using.workers,
        "first LoRA, s": first.wall,
        "second LoRA, s": second.wall,
        "card, GB": peak if device.type == "cuda" else None,
        "main memory, GB": (resident("VmHWM") - before) / 1e9,
        "notes": list(using.notes.values()),
    }
    shutil.rmtree(folder / "cache", ignore_errors=True)
    return row


def _resources(device: torch.device, cache) -> Resources:
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
    ends, device = time.monotonic() + setting.seconds, torch.device(setting.device)
    for shape in ((96, 96, 1, 1),) if setting.tiny else _BY_SHAPE:
        pair = write_pair(setting.folder / "shape", {"layer": shape}, setting.device)
        lora = lora_on(pair[0], 1)
        weights = [base.read(base.layers["layer"]).to(device) for base in pair]
        dense = lora["layer"].to(device).dense()
        seconds: list[float] = []
        for work in (
            lambda pair=pair, lora=lora: carry_over(*pair, lora, _resources(device, None), method="prolora"),
            lambda weights=weights, dense=dense: published(*weights, dense),
        ):
            work()
            wait(setting.device)
            _, cost = timed(lambda work=work: (work(), wait(setting.device)))
            seconds.append(cost.wall / 2)
        row = {"what": f"{shape[0]} x {weights[0].shape[1]}", "ours, s": seconds[0], "published, s": seconds[1]}
        yield row | {"times": seconds[1] / seconds[0]}
        if time.monotonic() + 4 * sum(seconds) * 4 > ends:
            return
