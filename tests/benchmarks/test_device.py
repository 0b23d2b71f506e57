"""The folder for a machine with a card: packed, moved, and run where nothing but the bare machine's packages is."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT

# What is installed on a bare machine; what these need comes with them.
BARE = ("torch", "numpy", "scipy", "safetensors", "Pillow", "transformers", "pytest")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packed folder, away from where it was packed."""
    first = tmp_path_factory.mktemp("device") / "packed"
    command = [sys.executable, "-m", "benchmarks.device", "pack", str(first), "--from-here"]
    subprocess.run(command, cwd=ROOT, check=True)
    return Path(shutil.move(first, tmp_path_factory.mktemp("moved") / "elsewhere"))


def test_what_is_packed_is_small(packed: Path) -> None:
    assert sum(path.stat().st_size for path in packed.rglob("*") if path.is_file()) <= 20_000_000


def test_the_packed_folder_runs_on_a_bare_machine(packed: Path, tmp_path: Path) -> None:
    command = [str(bare_python(tmp_path / "bare")), "-m", "benchmarks.device", "run", str(tmp_path / "out")]
    command += ["--device", "cpu", "--tiny", "--minutes", "30"]
    clean = {"PATH": os.defpath, "HOME": str(tmp_path)}
    finished = subprocess.run(command, cwd=packed, env=clean, capture_output=True, text=True, check=False)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert finished.returncode == 0, finished.stdout + finished.stderr + log[-4000:]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "results.md", "log.txt"}
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert all(part["ended"] == "well" and part["rows"] for part in results["parts"].values())
    page = (tmp_path / "out" / "results.md").read_text()
    assert all(part["title"] in page for part in results["parts"].values())


def test_the_parts_together_take_no_more_than_eight_minutes() -> None:
    from lora_transfer.benchmarks.device.parts import PARTS

    assert sum(part.seconds for part in PARTS) <= 8 * 60


def bare_python(folder: Path) -> Path:
    """A Python that sees the bare machine's packages alone, as links to this environment's."""
    venv.create(folder, symlinks=True)
    (place,) = folder.glob("lib/python*/site-packages")
    for name in _with_requirements(BARE):
        found = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (place / top).exists():
                (place / top).symlink_to(Path(str(found.locate_file(top))))
    return folder / "bin" / "python"


def _with_requirements(names: tuple[str, ...]) -> set[str]:
    """Distributions and all that they need, without extras; what is not installed is not needed here."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name in found:
            continue
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        left += [re.split(r"[\s\[<>=!~;(]", one)[0] for one in needs if "extra ==" not in one]
    return found
