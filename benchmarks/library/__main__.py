"""`python3 run.py bench library [--quick]`: what a library run costs, and what it survives.

The whole run takes about 35 minutes on two cores and up to 25 GB of disk in .run/, which it removes. --quick takes
two minutes and uses models of two layers. Without Ray (pip install ray) its part is left out.
"""

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dev.paths import ROOT, RUN

from .cluster import survive_kills

FOLDER = RUN / "bench_library"


@dataclass(frozen=True)
class Library:
    """LoRAs of a rank for a pair of bases: how many are written, and the runs (method, number of files)."""

    family: str
    rank: int
    files: int
    runs: tuple[tuple[str, int], ...]
    odd: int = 0


LIBRARIES = (
    Library("small", 2, 1000, (("copy", 1062),), odd=60),
    Library("SD15", 4, 1000, (("copy", 1), ("copy", 10), ("copy", 100), ("copy", 1060)), odd=60),
    Library("SD15", 4, 100, (("restore_both", 1), ("restore_both", 10), ("restore_both", 100), ("lora_x", 64))),
    Library("SD15", 64, 32, (("copy", 32), ("restore_both", 32))),
    Library("SDXL", 4, 100, (("copy", 1), ("copy", 10), ("copy", 100), ("restore_both", 48))),
)
# The library for the speed-up by workers and by nodes, and its runs.
SHARED = Library("SD15", 4, 100, (("copy", 64), ("restore_both", 64)))
QUICK = (Library("small", 2, 60, (("copy", 12), ("copy", 62), ("restore_both", 62))),)


def main() -> None:
    parser = argparse.ArgumentParser(prog="run.py bench library", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run with small models")
    quick = parser.parse_args().quick
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        result = _measure(quick)
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    print(json.dumps(result))
    if broken := list(_broken_promises(result)):
        sys.exit("Broken: " + "; ".join(broken))


def _measure(quick: bool) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for library in QUICK if quick else LIBRARIES:
        options = _options(library)
        call_child({**options, "what": "write"})
        for method, count in library.runs:
            rows.append(call_child({**options, "what": "run", "method": method, "count": count, "workers": 1}))
            print(rows[-1], flush=True)
    result: dict[str, Any] = {"quick": quick, "runs": rows}
    if not quick:
        result["workers"] = list(_measure_workers(SHARED))
    if importlib.util.find_spec("ray") is None:
        print("Ray is not installed: nothing is measured on a cluster.")
        return result
    if not quick:
        result["cluster"] = list(_measure_nodes(SHARED))
    small = _options(QUICK[0] if quick else replace(QUICK[0], files=150))
    call_child({**small, "what": "write"})
    deaths = {**small, "what": "deaths", "method": "copy", "count": 152, "kills": 2 if quick else 10}
    result["deaths"] = call_child(deaths)
    print(result["deaths"], flush=True)
    result["kills"] = survive_kills(Path(small["pair"]), Path(small["loras"]), FOLDER / "kills", 2 if quick else 10)
    print(result["kills"], flush=True)
    return result


def _measure_workers(library: Library) -> Iterator[dict[str, Any]]:
    for method, count in library.runs:
        for workers in (1, 2):
            row = call_child({**_options(library), "what": "run", "method": method, "count": count, "workers": workers})
            print(row, flush=True)
            yield row


def _measure_nodes(library: Library) -> Iterator[dict[str, Any]]:
    for method, count in library.runs:
        for nodes in (1, 2):
            row = call_child({**_options(library), "what": "ray", "method": method, "count": count, "nodes": nodes})
            print(row, flush=True)
            yield {"method": method, **row}


def _options(library: Library) -> dict[str, Any]:
    return {
        "family": library.family,
        "rank": library.rank,
        "count": library.files,
        "odd": library.odd,
        "pair": str(FOLDER / library.family),
        "loras": str(FOLDER / f"{library.family} {library.rank} {library.files}"),
        "scratch": str(FOLDER / "comfyui"),
        "out": str(FOLDER / "out"),
    }


def call_child(options: dict[str, Any]) -> dict[str, Any]:
    """The figures of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.library.child", json.dumps(options)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if finished.returncode:
        sys.exit(finished.stderr)
    return json.loads(finished.stdout.splitlines()[-1])


def _broken_promises(result: dict[str, Any]) -> Iterator[str]:
    for row in result["runs"]:
        name = f"{row['family']}, {row['method']}, {row['count']} files"
        if row.get("growth of memory", 1.0) > 1.05:
            yield f"{name}: memory grows with the number of files"
        if row["handles more"] > 0:
            yield f"{name}: files stay open"
        if sum(row["outcomes"].values()) != row["count"]:
            yield f"{name}: not every file is accounted for"
    if not all(all(result.get(part, {}).get("equal", [True])) for part in ("kills", "deaths")):
        yield "a run that was killed ends as an undisturbed one"


if __name__ == "__main__":
    main()
