"""Emoji in six drawing styles, rendered from packages of the npm registry: the same subjects in every style.

Needed only to train anew: what the evaluation reads is committed (weights/). Noto (Apache-2.0), Twemoji (graphics
CC-BY 4.0, Twitter and contributors) and Microsoft's Fluent emoji (MIT).
"""

import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIDE = 64  # pixels
SELECTOR, JOINER = "\ufe0f", "\u200d"  # of Unicode: "draw it in colour", "one emoji of several"
PACKAGES = {
    "names": ("unicode-emoji-json", "0.9.0"),
    "noto": ("emoji-datasource-google", "16.0.0"),
    "twemoji": ("@twemoji/svg", "15.0.0"),
    "3d": ("@lobehub/fluent-emoji-3d", "1.1.0"),
    "fluent": ("fluentui-emoji", "1.3.0"),
}


@dataclass(frozen=True)
class Subject:
    """One emoji: its characters, and its English name, which is its prompt."""

    characters: str
    name: str
    slug: str


@dataclass(frozen=True)
class Style:
    """Where a style's drawing of a subject lies: in which package, under which path."""

    package: str
    path: Callable[[Subject], str]


def _points(subject: Subject, *, keep_selector: bool) -> str:
    """1f600 or 2764-fe0f: how the packages name their files."""
    return "-".join(f"{ord(one):04x}" for one in subject.characters if keep_selector or one != SELECTOR)


def _fluent(kind: str) -> Style:
    return Style("fluent", lambda subject: f"package/icons/{kind}/{subject.slug}.svg")


STYLES = {
    "noto": Style("noto", lambda one: f"package/img/google/64/{_points(one, keep_selector=True)}.png"),
    "twemoji": Style("twemoji", lambda one: f"package/{_points(one, keep_selector=JOINER in one.characters)}.svg"),
    "3d": Style("3d", lambda one: f"package/assets/{_points(one, keep_selector=True)}.webp"),
    "flat": _fluent("flat"),
    "modern": _fluent("modern"),
    "line": _fluent("high-contrast"),
}


def load(folder: Path, group: str = "Smileys & Emotion") -> tuple[list[str], dict[str, Tensor]]:
    """The names of the subjects that every style draws, and style -> (subjects, 3, 64, 64) in [0, 1] on white."""
    packages = {name: _package(folder, *version) for name, version in PACKAGES.items()}
    subjects = _subjects(packages["names"], group)
    contents = {name: _read(package) for name, package in packages.items() if name != "names"}
    everywhere = [
        one for one in subjects if all(style.path(one) in contents[style.package] for style in STYLES.values())
    ]
    drawn = {
        name: torch.stack([_rendered(contents[style.package][style.path(one)]) for one in everywhere])
        for name, style in STYLES.items()
    }
    return [one.name for one in everywhere], drawn


def _package(folder: Path, name: str, version: str) -> Path:
    """The package's archive, fetched once by npm."""
    kept = folder / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if not kept.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError(
                f"{name} {version} is needed for the emoji drawings and is fetched by npm, which was not found. "
                "Install Node.js, or use --quick, which needs no drawings."
            )
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([npm, "pack", "--silent", f"{name}@{version}"], cwd=folder, check=True)
    return kept


def _subjects(package: Path, group: str) -> list[Subject]:
    with tarfile.open(package) as archive:
        groups = json.load(_opened(archive, "package/data-by-group.json"))
    chosen = next(one for one in groups if one["name"] == group)
    return [Subject(one["emoji"], one["name"], one["slug"].replace("_", "-")) for one in chosen["emojis"]]


def _read(package: Path) -> dict[str, bytes]:
    kept: dict[str, bytes] = {}
    with tarfile.open(package) as archive:
        for member in archive:
            if member.name.endswith((".png", ".svg", ".webp")):
                kept[member.name] = _opened(archive, member.name).read()
    return kept


def _opened(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise FileNotFoundError(f"{archive.name}: expected a file {name}, found a folder or a link of that name.")
    return file


def _rendered(content: bytes) -> Tensor:
    """(3, 64, 64) in [0, 1]"""
    if content[:5].lstrip().startswith((b"<svg", b"<?xml")):
        import resvg_py  # here: only the drawings need it

        content = bytes(resvg_py.svg_to_bytes(svg_string=content.decode(), width=SIDE * 2, height=SIDE * 2))
    drawing = Image.open(io.BytesIO(content)).convert("RGBA")
    ground = Image.new("RGBA", drawing.size, "white")
    image = Image.alpha_composite(ground, drawing).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
