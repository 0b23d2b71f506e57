"""Set-up in steps: each runs once, says what it does, and runs again only when what it was made from changes."""

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from .paths import STAMPS


def step(name: str, made_from: Sequence[object], action: Callable[[], None]) -> None:
    """Run `action` unless the stamp of an earlier run says that it stands, made from the same things."""
    stamp = STAMPS / name
    key = hashlib.sha256(repr((sys.version_info[:2], *made_from)).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == key:
        return
    print(f"{name.replace('_', ' ')} ...", end=" ", flush=True)
    started = time.monotonic()
    action()
    STAMPS.mkdir(parents=True, exist_ok=True)
    stamp.write_text(key)
    print(f"{time.monotonic() - started:.0f} s", flush=True)


def quietly(command: Sequence[object], tries: int = 2) -> None:
    """Run a program without its noise; when it fails twice, end with the tail of what it said."""
    words = [str(word) for word in command]
    finished = subprocess.run(words, capture_output=True, text=True, check=False)
    if finished.returncode == 0:
        return
    if tries > 1:
        quietly(command, tries - 1)
        return
    tail = "\n".join((finished.stdout + finished.stderr).splitlines()[-15:])
    sys.exit(f"\nThis command failed again with exit code {finished.returncode}:\n{' '.join(words)}\n{tail}")
