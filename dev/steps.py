"""Set-up steps. A step runs once, and again only when its ingredients change."""

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from .paths import STAMPS


def step(name: str, ingredients: Sequence[object], action: Callable[[], None]) -> None:
    """Runs `action`, unless a stamp shows that an earlier run made the same result from the same ingredients."""
    stamp = STAMPS / name
    key = hashlib.sha256(repr((sys.version_info[:2], *ingredients)).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == key:
        return
    print(f"{name.replace('_', ' ')} ...", end=" ", flush=True)
    started = time.monotonic()
    action()
    STAMPS.mkdir(parents=True, exist_ok=True)
    stamp.write_text(key)
    print(f"{time.monotonic() - started:.0f} s", flush=True)


def run_quietly(command: Sequence[object], tries: int = 2) -> None:
    """Runs a program and hides its output. If it fails twice, exits with the last lines of the output."""
    words = [str(word) for word in command]
    finished = subprocess.run(words, capture_output=True, text=True, check=False)
    if finished.returncode == 0:
        return
    if tries > 1:
        run_quietly(command, tries - 1)
        return
    tail = "\n".join((finished.stdout + finished.stderr).splitlines()[-15:])
    sys.exit(f"\nThis command failed again with exit code {finished.returncode}:\n{' '.join(words)}\n{tail}")
