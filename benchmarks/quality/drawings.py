"""Emoji in six drawing styles, rendered from npm packages: the same subjects in every style.

Only training needs them; what the evaluation reads is committed (weights/). Noto (Apache-2.0), Twemoji (graphics
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
SELECTOR, JOINER = "\ufe0f", "\u200d"  # Unicode characters: "draw in colour", "join emoji to one"
PACKAGES = {
    "names": ("unicode-emoji-json", "0.9.0"),
    "noto": ("emoji-datasource-google", "16.0.0"),
    "twemoji": ("@twemoji/svg", "15.0.0"),
    "3d": ("@lobehub/fluent-emoji-3d", "1.1.0"),
    "fluent": ("fluentui-emoji", "1.3.0"),
}


@dataclass(frozen=True)
class Subject:
    """An emoji: its characters, and its English name, which is its prompt."""

    characters: str
    name: str
    slug: str


@dataclass(frozen=True)
class Style:
    """Where the drawings of a style are: the package, and the path of each subject in it."""

    package: str
    path: Callable[[Subject], str]


def _points(subject: Subject, *, keep_selector: bool) -> str:
    """The code points as the packages name their files: 1f600, or 2764-fe0f."""
    return "-".join(
        f"{ord(character):04x}" for character in subject.characters if keep_selector or character != SELECTOR
    )


def _fluent(kind: str) -> Style:
    return Style("fluent", lambda subject: f"package/icons/{kind}/{subject.slug}.svg")


STYLES = {
    "noto": Style("noto", lambda subject: f"package/img/google/64/{_points(subject, keep_selector=True)}.png"),
    "twemoji": Style(
        "twemoji", lambda subject: f"package/{_points(subject, keep_selector=JOINER in subject.characters)}.svg"
    ),
    "3d": Style("3d", lambda subject: f"package/assets/{_points(subject, keep_selector=True)}.webp"),
    "flat": _fluent("flat"),
    "modern": _fluent("modern"),
    "line": _fluent("high-contrast"),
}


def load(folder: Path, group: str = "Smileys & Emotion") -> tuple[list[str], dict[str, Tensor]]:
    """Names of the subjects that every style has, and style -> drawings (subjects, 3, 64, 64) in [0, 1] on white."""
    packages = {name: _package(folder, *version) for name, version in PACKAGES.items()}
    subjects = _subjects(packages["names"], group)
    contents = {name: _read(package) for name, package in packages.items() if name != "names"}
    everywhere = [
        subject
        for subject in subjects
        if all(style.path(subject) in contents[style.package] for style in STYLES.values())
    ]
    drawn = {
        name: torch.stack([_render(contents[style.package][style.path(subject)]) for subject in everywhere])
        for name, style in STYLES.items()
    }
    return [subject.name for subject in everywhere], drawn


def _package(folder: Path, name: str, version: str) -> Path:
    """The package's archive, which npm downloads once."""
    path = folder / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if not path.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError(
                f"The emoji drawings need the npm package {name} {version}, but npm was not found. "
                "Install Node.js, or use --quick, which needs no drawings."
            )
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([npm, "pack", "--silent", f"{name}@{version}"], cwd=folder, check=True)
    return path


def _subjects(package: Path, group: str) -> list[Subject]:
    with tarfile.open(package) as archive:
        groups = json.load(_open_member(archive, "package/data-by-group.json"))
    emojis = next(entry["emojis"] for entry in groups if entry["name"] == group)
    return [Subject(emoji["emoji"], emoji["name"], emoji["slug"].replace("_", "-")) for emoji in emojis]


def _read(package: Path) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    with tarfile.open(package) as archive:
        for member in archive:
            if member.name.endswith((".png", ".svg", ".webp")):
                contents[member.name] = _open_member(archive, member.name).read()
    return contents


def _open_member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise FileNotFoundError(f"{archive.name}: expected a file {name}, found a folder or a link of that name.")
    return file


def _render(content: bytes) -> Tensor:
    """Renders an image file as (3, 64, 64) in [0, 1]."""
    if content[:5].lstrip().startswith((b"<svg", b"<?xml")):
        import resvg_py  # imported here because only the drawings need it

        content = bytes(resvg_py.svg_to_bytes(svg_string=content.decode(), width=SIDE * 2, height=SIDE * 2))
    drawing = Image.open(io.BytesIO(content)).convert("RGBA")
    ground = Image.new("RGBA", drawing.size, "white")
    image = Image.alpha_composite(ground, drawing).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
