"""Runs the parts one after the other, each in its own process, and writes all results after each part."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .bare import ROOT
from .parts import PARTS, Part, Setting
from .tables import page

_TINY_SECONDS = 200.0  # for a part in toy sizes: on an idle machine it takes a tenth

_ROOM = 40e9  # bytes for files: two SDXL models and what is kept of them


@dataclass(frozen=True)
class Wanted:
    device: str
    tiny: bool


def run(out: Path, wanted: Wanted, seconds: float, only: Sequence[str] = ()) -> int:
    """Measure into OUT: results.json, results.md and log.txt. The exit code: 1 where a part ended early."""
    out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + seconds
    results: dict[str, Any] = {"device": wanted.device, "tiny": wanted.tiny, "machine": _machine(wanted), "parts": {}}
    _say(json.dumps(results["machine"]))
    spare = 0.0  # seconds that earlier parts have left of theirs
    with (out / "log.txt").open("w") as log:
        for part in PARTS:
            if (only and part.name not in only) or part.on == wanted.device:  # the same as another part's
                continue
            meant = _TINY_SECONDS if wanted.tiny else part.seconds
            limit = min(meant + spare, ends - time.monotonic())
            results["parts"][part.name] = _measure(part, wanted, min(meant, limit), limit, log)
            spare = max(0.0, limit - results["parts"][part.name]["seconds"])
            (out / "results.json").write_text(json.dumps(results, indent=1))
            (out / "results.md").write_text(page(results))
    bad = [name for name, one in results["parts"].items() if one["ended"] != "well"]
    _say(f"parts that did not end well: {', '.join(bad) or 'none'}")
    return 1 if bad else 0


def _measure(part: Part, wanted: Wanted, meant: float, limit: float, log: Any) -> dict[str, Any]:
    """Rows of a part, how it ended, and its seconds. meant: what it may plan for; limit: when it is stopped."""
    if limit < 2:
        return {"title": part.title, "rows": [], "ended": "left out: no time was left", "seconds": 0.0}
    _say(f"{part.name}: at most {limit:.0f} s")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=_quick_place(), ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "rows"
        file.touch()
        setting = asdict(Setting(part.on or wanted.device, wanted.tiny, Path(folder), meant))
        words = json.dumps({**setting, "folder": folder})
        ended = _wait_for([sys.executable, "-u", "-m", f"{__package__}.child", part.name, words, str(file)], limit, log)
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    if ended == "well" and any("fault" in row for row in rows):
        ended = "with faults"
    spent = time.monotonic() - started
    _say(f"{part.name}: ended {ended} after {spent:.0f} s, {len(rows)} rows")
    return {"title": part.title, "rows": rows, "ended": ended, "seconds": round(spent, 1)}


def _quick_place() -> str | None:
    """Main memory as a folder, where it has room for two models: a slow disk must not be what is measured."""
    place = Path("/dev/shm")  # noqa: S108  (the folder below it has a name of its own)
    return str(place) if place.is_dir() and shutil.disk_usage(place).free > _ROOM else None


def _wait_for(command: list[str], limit: float, log: Any) -> str:
    """How a process ended; with all that it started it is stopped at the limit."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=_environment(), start_new_session=True)
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"stopped after {limit:.0f} s"
    return "well" if code == 0 else f"with code {code}"


def _environment() -> dict[str, str]:
    ours = {"PYTHONUNBUFFERED": "1", "TRANSFORMERS_OFFLINE": "1"}
    return {**os.environ, **ours}


def _machine(wanted: Wanted) -> dict[str, Any]:
    code = (
        "import json, torch; cuda = torch.cuda.is_available(); "
        "print(json.dumps({'torch': torch.__version__, 'card': torch.cuda.get_device_name(0) if cuda else None, "
        "'card GB': round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1) if cuda else None}))"
    )
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(asked.stdout.splitlines()[-1])
    if wanted.device == "cuda" and found["card"] is None:
        sys.exit("benchmarks.device: expected a CUDA card, found none that torch sees. Use --device cpu to try it out.")
    return {"python": platform.python_version(), "cores": os.cpu_count(), **found}


def _say(text: str) -> None:
    print(text, flush=True)
