"""Measures the default path on an SDXL pair from files: benchmarks.speed.default_path [FOLDER].

Each row comes from a fresh process with a warm page cache. FOLDER keeps the pair (10 GB); without it, a temporary
folder is used.
"""

# The pack's own name exists only once bare.prepare() has given it.
# pyright: reportMissingImports=false

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.device import bare
from dev.paths import ROOT, RUN

from .clock import Cost, measure_time, resident
from .sdxl import PairFiles, write_pair

_TRIES = 3
WORKERS = 2


def measure_default_path(folder: Path | None = None) -> dict[str, Any]:
    """Wall and CPU-seconds, peak memory and cache of the default path, beside only reading the touched layers."""
    RUN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=RUN, prefix="bench_speed_") as temporary:
        pair = folder or Path(temporary)
        if not PairFiles.below(pair).lora.is_file():
            _child(pair, Path(temporary), "write")
        rows = {
            what: min((_child(pair, Path(temporary), what) for _ in range(_TRIES)), key=lambda row: row["wall s"])
            for what in ("reading", "default path", "default path, files known")
        }
    for what, row in rows.items():
        print(f"{what}: {row}", flush=True)
    return rows


def _child(pair: Path, scratch: Path, what: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.speed.default_path", str(pair), str(scratch), what]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if finished.returncode:
        sys.exit(finished.stderr)
    return json.loads(finished.stdout.splitlines()[-1])


def main(pair: Path, scratch: Path, what: str) -> dict[str, Any]:
    bare.prepare("cpu")
    bare.import_comfy("cpu", scratch / "comfyui")
    torch.set_num_threads(1)
    if what == "write":
        write_pair(pair)
        return {}
    files = PairFiles.below(pair)
    for path in vars(files).values():
        _warm(path)
    if what == "reading":
        return _as_row(measure_time(lambda: _read_touched_layers(files))[1])
    if not what.endswith("known"):  # the host keeps the hash of a file for as long as the file does not change
        shutil.rmtree(scratch / "comfyui" / "user" / "lora_transfer", ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=scratch) as kept:
        cache = Path(kept)
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak
        before, parts = resident("VmRSS"), dict[str, Cost]()
        cost = measure_time(lambda: _transfer(files, cache, parts))[1]
        row = _as_row(cost, {name: _as_row(part) for name, part in parts.items()})
        row["peak MB over the interpreter"] = round((resident("VmHWM") - before) / 1e6)
        row["subspace cache MB"] = round(sum(path.stat().st_size for path in cache.glob("*/*")) / 1e6)
    return row


def _as_row(cost: Cost, parts: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"wall s": round(cost.wall, 2), "cpu s": round(cost.cpu, 2), **(parts or {})}


def _warm(path: Path) -> None:
    buffer = bytearray(1 << 23)
    with path.open("rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass


def _read_touched_layers(files: PairFiles) -> None:
    from lora_transfer.nodes.host.base.from_file import base_from_file

    for base in (base_from_file(files.source, "source"), base_from_file(files.target, "target")):
        for name, layer in base.layers.items():
            if "transformer_blocks." in name:
                base.read(layer)


def _transfer(files: PairFiles, cache: Path, parts: dict[str, Cost]) -> None:
    """What the nodes do with their default settings, from opening the files to the transferred LoRA."""
    from lora_transfer.core.cache import SubspaceCache
    from lora_transfer.core.plan import TransferSettings
    from lora_transfer.core.progress import ignore_progress
    from lora_transfer.core.resources import CPU, Resources
    from lora_transfer.core.subspace import RankRule
    from lora_transfer.nodes.host.adapter.adapter import adapter_from_file
    from lora_transfer.nodes.host.base.from_file import base_from_file
    from lora_transfer.nodes.host.compare import CompareSettings, compare_bases
    from lora_transfer.nodes.host.project import project

    def timed(name: str, work: Callable[[], Any]) -> Any:
        result, cost = measure_time(work)
        parts[name] = cost
        return result

    source, target = base_from_file(files.source, "source"), base_from_file(files.target, "target")
    timed("hashing both files", lambda: (source.fingerprint, target.fingerprint))
    adapter = adapter_from_file(files.lora, "lora")
    using = Resources.on(CPU, WORKERS, SubspaceCache(cache), ignore_progress)
    settings = CompareSettings(RankRule("fraction", 0.5))
    compared = timed("compare", lambda: compare_bases(source, target, adapter, settings, using, _ignore))
    timed("project", lambda: project(compared.comparison, adapter, TransferSettings(), using))


def _ignore(text: str) -> None:
    """The verdict is shown nowhere here."""


if __name__ == "__main__":
    if len(sys.argv) > 2:
        print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])))
    else:
        measure_default_path(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
