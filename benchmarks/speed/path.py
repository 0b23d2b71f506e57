"""Compares a transfer without any decomposition to reading its layers: benchmarks.speed.path FOLDER WHAT.

Each figure comes from a fresh process. A program that has read such layers before already has memory for the next ones
and reads four times as fast.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from core.resources import Resources

from .clock import measure_time
from .ours import transfer_layers
from .weights import FileBase, Shape, lora_on, open_base, write_pair

_TRIES = 5
_METHODS = ("copy", "restore")


def path_against_reading(shapes: Sequence[Shape], folder: Path) -> dict[str, float]:
    """CPU-seconds of a transfer by weight_cosine, as a multiple of reading its layers of both files as float32."""
    write_pair(folder, {f"layer{index}": shape for index, shape in enumerate(shapes)})
    seconds = {
        what: min(_once(folder, what) for _ in range(_TRIES))
        for what in ("reading", "reading by our reader", *_METHODS)
    }
    times = {f"{what}, times reading": round(seconds[what] / seconds["reading"], 2) for what in _METHODS}
    read = {f"{what} s": round(seconds[what], 3) for what in ("reading", "reading by our reader")}
    return {**read, **times}


def _once(folder: Path, what: str) -> float:
    command = [sys.executable, "-m", "benchmarks.speed.path", str(folder), what]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(finished.stdout.splitlines()[-1])


def _read(bases: Sequence[FileBase]) -> None:
    """Reads with safetensors' own reader and opens each file once, as any program would."""
    for base in bases:
        with safe_open(base.file.path, framework="pt") as file:
            for name in base.layers:
                file.get_tensor(name).float()


def _read_by_our_reader(bases: Sequence[FileBase]) -> None:
    for base in bases:
        for layer in base.layers.values():
            base.read(layer)


def main(folder: Path, what: str) -> None:
    torch.set_num_threads(1)
    source, target = open_base(folder / "source.safetensors"), open_base(folder / "target.safetensors")
    deltas = lora_on(source, 1)
    if what == "reading":
        cost = measure_time(lambda: _read((source, target)))[1]
    elif what == "reading by our reader":
        cost = measure_time(lambda: _read_by_our_reader((source, target)))[1]
    else:
        cost = measure_time(
            lambda: transfer_layers(source, target, deltas, Resources(), measure="weight_cosine", method=what)
        )[1]
    print(cost.cpu)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
