"""The browser for the tests of ComfyUI's page: a Chromium that is installed, or Debian's."""

import os
import shutil
import subprocess

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")

MISSING = "no Chromium on PATH: install one, for example with `apt-get install chromium`"


def find_browser() -> str | None:
    """The path of a Chromium on PATH, or None."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


def install_browser() -> None:
    """Installs Debian's Chromium if there is none and this process may install packages. Without a browser, its tests
    are skipped."""
    may_install = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get") is not None
    if find_browser() is not None or not may_install:
        return
    print("install Chromium ...", flush=True)
    for words in (("update",), ("install", "-y", "--no-install-recommends", "chromium")):
        subprocess.run(["apt-get", "-q", *words], capture_output=True, check=False)
