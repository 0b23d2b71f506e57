"""`python3 run.py bench speed [--quick] [--device cuda]`: measures what a transfer costs, beside other procedures.

The whole run takes about twenty minutes on two cores and needs 12 GB of memory for torch's default SVD. --quick
measures a sample of shapes in two minutes. Close other programs first: wall seconds need an idle machine.
"""

import argparse
import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from core.resources import CPU, Resources
from dev.paths import RUN

from .by_shape import ShapeCost, measure_shapes, silent, total
from .clock import measure_time
from .default_path import measure_default_path
from .memory import peak_of
from .ours import cache_in, measure_errors, transfer_layers
from .path import path_against_reading
from .profile import label, measure_floor, measure_profile
from .weights import Shape, inventory, lora_on, write_pair

PAIRS = {"SD1.5 -> SD1.5": ("SD1.5", "SD1.5"), "SDXL -> SSD-1B": ("SDXL", "SSD-1B")}
SAMPLE: tuple[Shape, ...] = (
    (640, 640, 1, 1),
    (1280, 1280, 1, 1),
    (1280, 2048, 1, 1),
    (1280, 5120, 1, 1),
    (640, 640, 3, 3),
)
PROFILE_SHAPES: tuple[Shape, ...] = ((1280, 1280, 1, 1), (10240, 1280, 1, 1), (1280, 1280, 3, 3))
LARGE = {"SDXL": ((10240, 1280, 1, 1), (1280, 2560, 3, 3)), "Flux": ((18432, 3072, 1, 1), (3072, 15360, 1, 1))}
# Matrices in the proportions of SDXL's transformer blocks.
MIX: dict[Shape, int] = {(1280, 1280, 1, 1): 24, (1280, 2048, 1, 1): 8, (1280, 5120, 1, 1): 4, (10240, 1280, 1, 1): 4}
FOLDER = RUN / "bench_speed"


def main() -> None:
    parser = argparse.ArgumentParser(prog="run.py bench speed", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="measure a sample of shapes, in two minutes")
    parser.add_argument("--default-path", action="store_true", help="measure only the default path on an SDXL pair")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda to measure a card")
    arguments = parser.parse_args()
    if arguments.default_path:
        print(json.dumps(measure_default_path()))
        return
    device = torch.device(arguments.device)
    torch.set_num_threads(1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    result: dict[str, Any] = {"machine": describe_machine(device), "quick": arguments.quick}
    print(json.dumps(result["machine"]), flush=True)
    with threadpool_limits(1, user_api="blas"), torch.no_grad():
        result |= measure_shape_tables(arguments.quick, device)
        result["errors"] = measure_accuracy(arguments.quick, device)
        if device.type == "cpu":
            result["without decomposition"] = measure_without_decomposition()
            result["profile"] = measure_profiles(arguments.quick)
            result["linear"] = measure_growth()
            result["memory"] = measure_memory(arguments.quick)
            if not arguments.quick:
                result["whole SD1.5 pair"] = measure_whole_pair()
    shutil.rmtree(FOLDER, ignore_errors=True)
    print(json.dumps(result))


def describe_machine(device: torch.device) -> dict[str, Any]:
    model = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "processor": model[0],
        "cores": os.cpu_count(),
        "card": card,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def measure_shape_tables(quick: bool, device: torch.device) -> dict[str, Any]:
    """Measures each shape once, and adds up both pairs of models by their number of matrices of each shape."""
    counts_by_pair: dict[str, dict[Shape, int]] = {}
    for pair, models in PAIRS.items():
        counts = [inventory(model) for model in models]
        counts_by_pair[pair] = {
            shape: sum(count.get(shape, 0) for count in counts) for shape in {*counts[0], *counts[1]}
        }
    every = {shape for counts in counts_by_pair.values() for shape in counts}
    print("\nCPU-seconds of one matrix at k = 320 (ours: read, hash, decompose, compare, cache, project)")
    shapes = [shape for shape in SAMPLE if shape in every] if quick else sorted(every)
    costs = measure_shapes(shapes, FOLDER, device, longest_default=2560 if quick else 1 << 20)
    return {"pairs": {pair: _pair_row(pair, costs, counts, quick) for pair, counts in counts_by_pair.items()}}


def _pair_row(pair: str, costs: Sequence[ShapeCost], counts: Mapping[Shape, int], quick: bool) -> dict[str, Any]:
    covered = sum(counts.get(cost.shape, 0) for cost in costs)
    seconds = {which: total(costs, counts, which) for which in ("ours", "warm", "published", "thin", "default", "tall")}
    row = {
        "matrices": f"{covered} of {sum(counts.values())}",
        **{f"{which} s": round(value, 2) for which, value in seconds.items()},
        **{
            f"times over {which}": round(seconds[which] / seconds["ours"], 1)
            for which in ("default", "published", "thin", "tall")
        },
        "second adapter": f"1/{seconds['ours'] / seconds['warm']:.0f}",
    }
    print(
        f"\n{pair}, CPU-seconds: {row}"
        + ("\n  (default is a lower bound: where it was not run, the thin SVD counts instead)" if quick else "")
    )
    return row


def measure_accuracy(quick: bool, device: torch.device) -> dict[str, Any]:
    """Measures a transfer's errors against float64: without a cache, and with caches of both precisions."""
    shapes = SAMPLE[:3] if quick else (*SAMPLE, (5120, 640, 1, 1), (320, 960, 3, 3), (2560, 320, 1, 1))
    named = {f"layer{number}_{copy}": shape for number, shape in enumerate(shapes) for copy in range(1 if quick else 3)}
    source, target = write_pair(FOLDER / "accuracy", named)
    deltas = lora_on(source, 3)
    rows: dict[str, Any] = {}
    for name in ("none", "float32", "float16"):
        cache = None if name == "none" else cache_in(FOLDER / f"accuracy_{name}", name)
        run = transfer_layers(source, target, deltas, Resources.on(device, 2, cache, silent))
        worst = measure_errors(run, deltas, set(named))
        rows[name] = {key: float(f"{value:.1e}") for key, value in vars(worst).items()}
        print(f"\nagainst float64, cache {name}, {len(named)} layers: {rows[name]}")
    return rows


def measure_without_decomposition() -> dict[str, float]:
    shapes = [shape for shape, count in MIX.items() for _ in range(count)]
    rows = path_against_reading(shapes, FOLDER / "path")
    print(f"\nwithout any decomposition, against reading alone (CPU-seconds, warm page cache): {rows}")
    return rows


def measure_profiles(quick: bool) -> dict[str, Any]:
    floor = measure_floor(FOLDER)
    print(f"\none core: {floor.operations / 1e9:.0f} GFLOP/s, {floor.bytes / 1e9:.1f} GB/s from the page cache")
    rows: dict[str, Any] = {}
    for shape in PROFILE_SHAPES[: 1 if quick else None]:
        rows[label(shape)] = {name: round(value, 4) for name, value in measure_profile(shape, FOLDER, floor).items()}
        print(f"a layer pair of {label(shape)}, CPU-seconds by step: {rows[label(shape)]}")
    return rows


def measure_growth() -> dict[str, list[float]]:
    """CPU-seconds for 1 to 16 layers with a cold cache, and for 1 to 8 more adapters on all sixteen."""
    shape = (640, 640, 1, 1)
    rows: dict[str, list[float]] = {"layers": [], "adapters": []}

    def cost(count: int) -> float:
        source, target = write_pair(FOLDER / "growth", {f"layer{index}": shape for index in range(16)})
        shutil.rmtree(FOLDER / "growth_cache", ignore_errors=True)
        using = Resources(cache=cache_in(FOLDER / "growth_cache"))
        deltas = dict(list(lora_on(source, 1).items())[:count])
        cold = measure_time(lambda: transfer_layers(source, target, deltas, using))[1].cpu
        if count == 16:
            for adapters in (1, 2, 4, 8):
                loras = [lora_on(source, seed) for seed in range(adapters)]
                warm = measure_time(
                    lambda loras=loras: [transfer_layers(source, target, lora, using) for lora in loras]
                )[1].cpu
                rows["adapters"].append(round(warm, 3))
        return cold

    cost(1)  # a first run, so that one-time loading does not count for the first layer
    rows["layers"] = [round(cost(count), 3) for count in (1, 2, 4, 8, 16)]
    print(f"\ngrowth, CPU-seconds: 1, 2, 4, 8, 16 layers {rows['layers']}; 1, 2, 4, 8 more adapters {rows['adapters']}")
    return rows


def measure_memory(quick: bool) -> dict[str, float]:
    """Peak memory beyond the interpreter's, for the largest layers of two models, with one worker and with two."""
    rows: dict[str, float] = {}
    for model, shapes in LARGE.items():
        if quick and model == "Flux":
            continue
        for workers in (1, 2):
            peak = peak_of([shape for shape in shapes for _ in range(2)], workers, FOLDER / "memory")
            rows[f"{model}, {workers} workers, GB each"] = round(peak / workers / 1e9, 2)
    print(f"\npeak memory beyond the interpreter's: {rows}")
    return rows


def measure_whole_pair() -> dict[str, float]:
    """Transfers every matrix of SD1.5 from files on all cores, cold and with a second adapter; nothing is sampled."""
    shapes = [shape for shape, count in inventory("SD1.5").items() for _ in range(count)]
    source, target = write_pair(FOLDER / "whole", {f"layer{index}": shape for index, shape in enumerate(shapes)})
    using = Resources.on(CPU, os.cpu_count() or 1, cache_in(FOLDER / "whole_cache"), silent)
    cold = measure_time(lambda: transfer_layers(source, target, lora_on(source, 1), using))[1]
    warm = measure_time(lambda: transfer_layers(source, target, lora_on(source, 2), using))[1]
    size = sum(path.stat().st_size for path in (FOLDER / "whole_cache").rglob("*.safetensors"))
    rows = {
        "cold wall s": round(cold.wall, 1),
        "cold cpu s": round(cold.cpu, 1),
        "second adapter wall s": round(warm.wall, 2),
        "second adapter cpu s": round(warm.cpu, 2),
        "cache GB": round(size / 1e9, 2),
    }
    print(f"\nSD1.5 pair, {len(shapes)} layers, {os.cpu_count()} cores: {rows}")
    return rows


if __name__ == "__main__":
    main()
