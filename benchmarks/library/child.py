"""One library run in a process of its own: benchmarks.library.child OPTIONS, as JSON. Prints its figures as JSON."""

# The pack's own name exists only once bare.prepare() has given it.
# pyright: reportMissingImports=false

import json
import os
import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.device import bare
from benchmarks.speed.clock import measure_time, resident

from .cluster import measure_ray, survive_deaths
from .files import write_loras, write_odd_files, write_pair_of

_SETTLED = 50  # files after which memory must not grow
_BATCH = 16  # files that are in memory together


def main(options: dict[str, Any]) -> dict[str, Any]:
    bare.prepare("cpu")
    bare.import_comfy("cpu", Path(options["scratch"]))
    torch.set_num_threads(1)
    if options["what"] == "ray":
        return measure_ray(options)
    if options["what"] == "deaths":
        return survive_deaths(options)
    if options["what"] == "write":
        if options["family"] == "small":
            _write_small(Path(options["pair"]), Path(options["loras"]), options["count"])
            write_odd_files(Path(options["loras"]), options.get("odd", 0))
            return {}
        pair = write_pair_of(options["family"], Path(options["pair"]))
        write_loras(Path(options["loras"]), pair.source, options["count"], options["rank"])
        write_odd_files(Path(options["loras"]), options.get("odd", 0))
        return {}
    return _run(options)


def _write_small(pair: Path, loras: Path, count: int) -> None:
    """Models of two layers, and LoRAs with a broken and a foreign file among them."""
    from tests.host.small_library import write_library

    if loras.exists():
        return
    library = write_library(pair, count)
    library.loras.rename(loras)


def _run(options: dict[str, Any]) -> dict[str, Any]:
    """Transfers the first `count` files of a folder. Beside it, reads the same files and the weights they touch."""
    from lora_transfer.core.cache import SubspaceCache
    from lora_transfer.core.plan import TransferSettings
    from lora_transfer.core.progress import ignore_progress
    from lora_transfer.core.resources import CPU, Resources
    from lora_transfer.nodes.host.base.from_file import base_from_file
    from lora_transfer.nodes.host.library.files import find_files
    from lora_transfer.nodes.host.library.run import batch_of, open_library, transfer_library
    from lora_transfer.nodes.host.library.settings import LibrarySettings, compare_settings_for

    method, out = options["method"], Path(options["out"])
    shutil.rmtree(out, ignore_errors=True)
    pair = [base_from_file(Path(options["pair"]) / f"{name}.safetensors", name) for name in ("source", "target")]
    settings = LibrarySettings(compare_settings_for(method), TransferSettings(method, threshold=0.0))
    cache = SubspaceCache(Path(options["scratch"]) / "subspaces")
    batch, hashing = measure_time(
        lambda: batch_of(*pair, settings, Resources.on(CPU, options["workers"], cache, ignore_progress))
    )
    files = find_files([options["loras"]])[: options["count"]]
    points: list[Point] = []
    with open_library(out) as library:
        started = Point.now()
        outcomes: Counter[str] = Counter()
        for entry in transfer_library(library, files, batch):
            outcomes[entry.outcome] += 1
            points.append(Point.now())
    usable = [file for file in files if not file.name.startswith(("odd", "broken"))]
    reading = measure_time(lambda: [_read_whole(file.path) for file in usable])[1]
    weights = measure_time(lambda: [base.read(layer) for base in pair for layer in _touched(base)])[1]
    size = sum(file.path.stat().st_size for file in files) / 1e6
    return {
        **{name: options[name] for name in ("family", "rank", "method", "count", "workers")},
        **_figures(started, points),
        "hashing the bases, cpu s": round(hashing.cpu, 2),
        "reading a LoRA, cpu s": round(reading.cpu / len(usable), 5),
        "reading the weights, cpu s": round(weights.cpu, 2),
        "MB of a LoRA": round(size / len(files), 2),
        "outcomes": dict(outcomes),
    }


@dataclass(frozen=True)
class Point:
    """The state of this process after a file."""

    cpu: float
    wall: float
    memory: int
    handles: int

    @staticmethod
    def now() -> "Point":
        handles = len(os.listdir("/proc/self/fd"))
        return Point(time.process_time(), time.perf_counter(), resident("VmRSS"), handles)


def _figures(started: Point, points: list[Point]) -> dict[str, Any]:
    """Costs, and how memory grew after the first files. Memory goes up and down within a batch, so peaks of 16 files
    (a batch) are compared."""
    last = points[-1]
    figures: dict[str, Any] = {
        "cpu s": round(last.cpu - started.cpu, 2),
        "wall s": round(last.wall - started.wall, 2),
        "handles more": last.handles - started.handles,
        "peak MB": round(max(point.memory for point in points) / 1e6),
    }
    if len(points) > _BATCH:  # what a file more costs, without the survey
        more = points[-1].cpu - points[_BATCH - 1].cpu
        figures["a file more, cpu s"] = round(more / (len(points) - _BATCH), 4)
    if len(points) >= _SETTLED + 2 * _BATCH:
        early = max(point.memory for point in points[_SETTLED - _BATCH : _SETTLED])
        figures["growth of memory"] = round(max(point.memory for point in points[-_BATCH:]) / early, 3)
    return figures


def _read_whole(path: Path) -> None:
    for tensor in load_file(path).values():
        tensor.sum()


def _touched(base: Any) -> list[Any]:
    return [
        layer
        for name, layer in base.layers.items()
        if ("transformer_blocks." in name or name.startswith("blocks.")) and len(layer.weight.shape) == 2
    ]


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
