"""The memory that a transfer takes over the interpreter, in a process of its own: benchmarks.speed.memory FOLDER N."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from core.resources import CPU, Resources

from .by_shape import silent
from .clock import resident
from .ours import cache_in, carry_over
from .weights import Shape, lora_on, open_base, write_pair


def peak_of(shapes: Sequence[Shape], workers: int, folder: Path) -> int:
    """Bytes that a transfer of these layers adds to a process that has loaded everything but them."""
    write_pair(folder, {f"layer{index}": shape for index, shape in enumerate(shapes)})
    command = [sys.executable, "-m", "benchmarks.speed.memory", str(folder), str(workers)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(finished.stdout.splitlines()[-1])


def main(folder: Path, workers: int) -> None:
    source, target = open_base(folder / "source.safetensors"), open_base(folder / "target.safetensors")
    deltas = lora_on(source, 1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    with tempfile.TemporaryDirectory() as cache:
        carry_over(source, target, deltas, Resources.on(CPU, workers, cache_in(Path(cache)), silent))
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
