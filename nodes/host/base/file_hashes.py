"""Hashes of base files by which trainers and download sites name a base, kept for each state of a file."""

import contextlib
import hashlib
import re
from pathlib import Path
from typing import Any

import comfy.model_management

from ....core.cache import SubspaceCache
from ....core.files.file_state import open_unchanged, state_at
from ....core.files.json_text import read_json

# The first hash of AUTOMATIC1111's web interface, which sd-scripts still writes: SHA-256 of 64 kB at 1 MB, 8 digits.
# All fine-tunes of SDXL with an untouched text encoder have the same, because their files begin with that encoder.
_LEGACY_START, _LEGACY_LENGTH, _LEGACY_DIGITS = 0x100000, 0x10000, 8

_CHUNK = 1 << 23  # bytes
_LARGEST_SIDECAR = 4_000_000  # bytes
_SHA256 = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", re.IGNORECASE)


def state_mark(path: Path) -> str | None:
    """Path and state of a file as text; None if the file is missing, or so new that its state may not change with its
    content."""
    state = state_at(path)
    return None if state is None or not state.settled else f"{path.resolve()} {state.mark()}"


def legacy_hash(path: Path) -> str | None:
    """The 8 digits of the legacy hash; None for a file that ends before its bytes."""
    with open_unchanged(path, None) as stream:
        stream.seek(_LEGACY_START)
        sample = stream.read(_LEGACY_LENGTH)
    return hashlib.sha256(sample).hexdigest()[:_LEGACY_DIGITS] if sample else None


def known_sha256(path: Path, cache: SubspaceCache | None) -> str | None:
    """SHA-256 of a file if it was computed before, or if a download tool left it beside the file; else None."""
    mark = state_mark(path)
    stored = None if cache is None or mark is None else cache.digest_at(f"sha256 of {mark}")
    return stored or _sha256_beside(path)


def compute_sha256(path: Path, cache: SubspaceCache | None) -> str:
    """SHA-256 of a whole file; takes some seconds for each 5 GB. The cache stores it."""
    mark = state_mark(path)
    digest = hashlib.sha256()
    with open_unchanged(path, state_at(path)) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            comfy.model_management.throw_exception_if_processing_interrupted()
    if cache is not None and mark is not None:
        cache.store_digest(f"sha256 of {mark}", digest.hexdigest())
    return digest.hexdigest()


def _sha256_beside(path: Path) -> str | None:
    """SHA-256 that a download tool wrote into a file beside a model; None without one, or if the model is newer."""
    for beside, read in (
        (path.with_name(f"{path.name}.sha256"), _from_text),
        (path.with_suffix(".sha256"), _from_text),
        (path.with_suffix(".metadata.json"), _from_metadata_json),
        (path.with_suffix(".civitai.info"), _from_civitai_version),
    ):
        with contextlib.suppress(OSError, ValueError):  # a hash that cannot be read is computed
            status, model = beside.stat(), path.stat()
            if status.st_size > _LARGEST_SIDECAR or status.st_mtime < model.st_mtime:
                continue
            digest = read(beside.read_text(encoding="utf-8"), path.name, model.st_size)
            if digest is not None and (plain := _SHA256.fullmatch(digest)):
                return plain[0].lower()
    return None


def _from_text(text: str, _name: str, _size: int) -> str | None:
    digest = _SHA256.search(text)
    return None if digest is None else digest[0]


def _from_metadata_json(text: str, _name: str, size: int) -> str | None:
    entry = read_json(text)
    if not isinstance(entry, dict) or entry.get("size", size) != size:
        return None
    return _text_or_none(entry.get("sha256"))


def _from_civitai_version(text: str, name: str, size: int) -> str | None:
    """The hash of the version's file that has the model's size or, where no size is given, its name."""
    entry = read_json(text)
    files = entry.get("files") if isinstance(entry, dict) else None
    for file in files if isinstance(files, list) else []:
        hashes = file.get("hashes") if isinstance(file, dict) else None
        kilobytes = file.get("sizeKB") if isinstance(file, dict) else None
        same = abs(kilobytes * 1024 - size) < 1024 if isinstance(kilobytes, (int, float)) else file.get("name") == name
        if isinstance(hashes, dict) and same:
            return _text_or_none(hashes.get("SHA256"))
    return None


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None
