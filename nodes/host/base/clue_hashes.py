"""Compares base files with the hash that a LoRA gives its base; reads as little of them as decides."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management

from ....core.cache import SubspaceCache
from ....core.files.fingerprint import model_fingerprint
from ....core.files.shards import open_model_file
from ..adapter.base_clues import BaseClues
from .file_hashes import compute_sha256, known_sha256, legacy_hash

# Whole files that are read to find the one with a hash, if none of them has the base's name. A model of 7 GB takes five
# to twenty seconds.
_MOST_HASHED = 2

_OF_FILES = ("blake3:", "shards-blake3:")  # the pack's own hashes of files; those of loaded models cannot be compared


@dataclass(frozen=True)
class HashCheck:
    """Whether a file has the hash that a LoRA names (None: unknown), and whether that is proof: a hash of all bytes."""

    agrees: bool | None = None
    proven: bool = False


def check_hashes(
    files: Mapping[str, tuple[Path, bool]], clues: BaseClues, cache: SubspaceCache | None
) -> dict[str, HashCheck]:
    """Check each file. files: name -> (path, whether it has the name that the LoRA gives its base)."""
    if clues.fingerprint is not None and clues.fingerprint.startswith(_OF_FILES):
        return {name: _check_fingerprint(path, named, clues, cache) for name, (path, named) in files.items()}
    checks = {name: _check_legacy(path, clues) for name, (path, _) in files.items()}
    if clues.sha256 is None:
        return checks
    for name in _worth_hashing(files, checks, clues, cache):
        path = files[name][0]
        digest = known_sha256(path, cache) or compute_sha256(path, cache)
        agrees = digest.startswith(clues.sha256)
        checks[name] = HashCheck(agrees, proven=agrees)
    return checks


def _check_fingerprint(path: Path, named: bool, clues: BaseClues, cache: SubspaceCache | None) -> HashCheck:
    """The pack's own fingerprint, which a transfer from the file needs anyway; only of a file with the right name."""
    if not named:
        return HashCheck()
    tick = comfy.model_management.throw_exception_if_processing_interrupted
    agrees = model_fingerprint(open_model_file(path), cache, tick) == clues.fingerprint
    return HashCheck(agrees, proven=agrees)


def _check_legacy(path: Path, clues: BaseClues) -> HashCheck:
    """The hash of 64 kB. It is no proof, because many fine-tunes share these bytes."""
    if clues.legacy is None or (legacy := legacy_hash(path)) is None:
        return HashCheck()
    return HashCheck(legacy == clues.legacy)


def _worth_hashing(
    files: Mapping[str, tuple[Path, bool]],
    checks: Mapping[str, HashCheck],
    clues: BaseClues,
    cache: SubspaceCache | None,
) -> list[str]:
    """The files whose full hash decides: those whose hash is known, those with the base's name if the legacy hash did
    not decide, and without any such file a few that the legacy hash allows."""
    possible = [name for name in files if checks[name].agrees is not False]
    known = [name for name in possible if known_sha256(files[name][0], cache) is not None]
    if any(str(known_sha256(files[name][0], cache)).startswith(str(clues.sha256)) for name in known):
        return known
    named = [name for name in possible if files[name][1]]
    if named:
        return [*known, *(name for name in named if checks[name].agrees is None and name not in known)]
    unknown = [name for name in possible if checks[name].agrees and name not in known]
    return [*known, *(unknown if len(unknown) <= _MOST_HASHED else [])]
