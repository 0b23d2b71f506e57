"""Measures a transfer's memory beyond the interpreter's, in its own process: benchmarks.speed.memory FOLDER N."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from core.resources import CPU, Resources

from .by_shape import silent
from .clock import resident
from .ours import cache_in, transfer_layers
from .weights import Shape, lora_on, open_base, write_pair


def peak_of(shapes: Sequence[Shape], workers: int, folder: Path) -> int:
    """Bytes that a transfer of these layers adds to a process that has loaded everything else."""
    write_pair(folder, {f"layer{index}": shape for index, shape in enumerate(shapes)})
    command = [sys.executable, "-m", "benchmarks.speed.memory", str(folder), str(workers)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(finished.stdout.splitlines()[-1])


def main(folder: Path, workers: int) -> None:
    source, target = open_base(folder / "source.safetensors"), open_base(folder / "target.safetensors")
    deltas = lora_on(source, 1)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak
    before = resident("VmRSS")
    with tempfile.TemporaryDirectory() as cache:
        transfer_layers(source, target, deltas, Resources.on(CPU, workers, cache_in(Path(cache)), silent))
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
