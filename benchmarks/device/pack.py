"""Gathers a folder that runs on a bare machine: our code, ComfyUI's, models of the emoji benchmark, and wheels.

The machine has Python, torch with CUDA, NumPy, SciPy, safetensors, Pillow, transformers and pytest, and no network.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors.torch import save_file

from .bare import COMFYUI, ROOT, WHEELS
from .emoji import PROMPTS, some_prompts

MOST_BYTES = 20_000_000
PYTHON = "3.12"

# What ComfyUI and our code import and a bare machine lacks.
PACKAGES = ("blake3", "comfy-aimdo", "comfy-kitchen", "einops", "psutil", "threadpoolctl")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux1_x86_64")
# Kernels for cards of other makes, or of packed formats that the run does not use: 170 MB. Python does without them.
_LEFT_OUT = ("comfy_kitchen/backends/cuda/_C", "comfy_kitchen/backends/hip/_C", "comfy_aimdo/aimdo_rocm")

_OURS = ("*.py", "core/**/*.py", "nodes/**/*.py", "nodes/**/*.txt", "dev/*.py", "benchmarks/**/*.py")
_TESTS = ("tests/pytest.ini", "tests/*.py", "tests/laws/*.py", "tests/core/**/*.py", "tests/host/families.py")
_DATA = (
    "ARCHITECTURE.md",
    "pyproject.toml",
    "benchmarks/speed/shapes.json",
    *(f"benchmarks/quality/weights/diffusion_models/emoji_{name}.safetensors" for name in ("source", "pruned")),
    "benchmarks/quality/weights/loras/emoji_line_art.safetensors",
    "benchmarks/quality/weights/vae/emoji_vae.safetensors",
)
_COMFYUI = (
    *("comfy/**/*.py", "comfy_api/**/*.py", "comfy_execution/**/*.py", "comfy/*.json"),
    *("comfy_extras/nodes_train.py", "comfy_extras/nodes_custom_sampler.py"),
    *("comfyui_version.py", "folder_paths.py", "latent_preview.py", "node_helpers.py", "protocol.py"),
    *("utils/__init__.py", "utils/*.py"),
)


def pack(folder: Path, *, from_here: bool = False) -> int:
    """Fill a folder, which must be empty or absent; its size in bytes.

    from_here: the packages come from this environment, for this Python, and not from the package index.
    """
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder}: expected an empty folder, found files in it. Choose another, or empty it.")
    for path in _matching(ROOT, (*_OURS, *_TESTS, *_DATA)):
        place = folder / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    save_file(some_prompts(), folder / PROMPTS.name)
    tree = Path(os.environ["LORA_TRANSFER_COMFYUI"])
    with zipfile.ZipFile(folder / COMFYUI.name, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in _matching(tree, _COMFYUI):
            archive.write(path, path.relative_to(tree))
    wheels = folder / WHEELS.name
    wheels.mkdir()
    (_wheels_from_here if from_here else _wheels_from_index)(wheels)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MOST_BYTES:
        sys.exit(f"{folder}: expected at most {MOST_BYTES:,} bytes, found {size:,}. See pack.py for what goes in.")
    return size


def _matching(root: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    """Files of our own tree by patterns, each once; tests and models of other folders stay behind."""
    found = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    yield from sorted(path for path in found if "__pycache__" not in path.parts)


def _wheels_from_index(folder: Path) -> None:
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES]
    platforms = [word for one in PLATFORMS for word in ("--platform", one)]
    with tempfile.TemporaryDirectory() as downloaded:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
        command += ["--python-version", PYTHON, "--implementation", "cp", *platforms, "-d", downloaded, *wanted]
        subprocess.run(command, check=True)
        for wheel in Path(downloaded).glob("*.whl"):
            with zipfile.ZipFile(wheel) as opened:
                _write_wheel(folder / wheel.name, opened.namelist(), opened.read)


def _wheels_from_here(folder: Path) -> None:
    for name in PACKAGES:
        installed = importlib.metadata.distribution(name)
        places = {str(path): Path(str(path.locate())) for path in installed.files or ()}
        inside = [place for place, path in places.items() if not place.startswith("..") and path.is_file()]
        _write_wheel(folder / f"{name}.whl", inside, lambda place, places=places: places[place].read_bytes())


def _write_wheel(path: Path, names: list[str], read: Callable[[str], bytes]) -> None:
    """The files of a package in one archive, less those that are left out."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            if not name.endswith(("/", ".pyc")) and not name.startswith(_LEFT_OUT):
                archive.writestr(name, read(name))
