"""Keeps teacher samples on disk, in ComfyUI's user folder, for other runs and other targets."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from blake3 import blake3
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..sampling.conditioning import UnknownContent, add_to_digest
from ..settings import cache_folder

# Part of every key. Raise it when the same source would give other samples: old entries are then never read again.
_ALGORITHM = 3
_TENSORS = {"states", "noise", "levels", "prompts"}
_KNOWN_PATCHES = {"model_sampling", "manual_cast_dtype"}  # object patches that describe_changes covers
_HOOKS = ("injections", "wrappers", "callbacks", "additional_models", "weight_wrapper_patches")
_CHECKSUM = "checksum"
_UNFINISHED, _A_DAY = ".unfinished", 24 * 3600  # seconds


@dataclass
class TeacherCache:
    """folder: None keeps nothing; limit: bytes, beyond which the least recently used entries are removed. If the folder
    cannot be used, the run goes on without it and the log says so once."""

    folder: Path | None
    limit: int
    _has_warned: bool = False

    def key(self, facts: Mapping[str, Any]) -> str:
        written = json.dumps({"algorithm": _ALGORITHM, **facts}, sort_keys=True)
        return hashlib.sha256(written.encode()).hexdigest()

    def read(self, key: str) -> dict[str, Tensor] | None:
        """An entry, or None if there is none. A damaged entry is removed."""
        if self.folder is None:
            return None
        path = self._path(key)
        try:
            if not path.is_file():
                return None
            tensors = _verified(path)
        except Exception as error:  # noqa: BLE001  (what a damaged header makes the reader raise is not documented)
            self._warn(f"the teacher samples in {path} cannot be used ({error}); they are sampled again")
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        with suppress(OSError):  # a read-only folder only loses the order of use
            os.utime(path)
        return tensors

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep an entry, whole or not at all. If there is no room for it, the run goes on without it."""
        if self.folder is None:
            return
        unfinished = self.folder / f"{uuid4().hex}{_UNFINISHED}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                save_file(dict(tensors), unfinished, {_CHECKSUM: _checksum(tensors)})
                os.replace(unfinished, self._path(key))
            finally:
                unfinished.unlink(missing_ok=True)
            self._sweep(key)
        except (OSError, SafetensorError) as error:
            self._warn(f"the teacher samples could not be written to {self.folder} ({error})")

    def _warn(self, text: str) -> None:
        if not self._has_warned:
            logging.warning("LoRA Transfer: %s", text)
        self._has_warned = True

    def _path(self, key: str) -> Path:
        return Path(str(self.folder)) / f"{key}.safetensors"

    def _sweep(self, newest: str) -> None:
        """Remove the least recently used entries beyond the limit, but never the newest, and what a crash left."""
        folder = Path(str(self.folder))
        for left in folder.glob(f"*{_UNFINISHED}"):
            if time.time() - left.stat().st_mtime > _A_DAY:
                left.unlink(missing_ok=True)
        entries = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
        size = 0
        for path in entries:
            size += path.stat().st_size
            if size > self.limit and path != self._path(newest):
                path.unlink(missing_ok=True)


def _verified(path: Path) -> dict[str, Tensor]:
    """The tensors of an entry, copied, because Windows keeps a mapped file locked. ValueError if they are not what was
    written."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  (it is no dict)
        written = (file.metadata() or {}).get(_CHECKSUM)
    if written != _checksum(tensors) or not tensors.keys() >= _TENSORS:
        raise ValueError("their checksum is wrong")
    return tensors


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = blake3()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)} ".encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def describe_changes(model: Any) -> dict[str, Any] | None:
    """Everything but its weights that affects a loaded model's answers, as JSON values: patches (LoRAs, merges), noise
    and precision. None if something cannot be compared by its content: patches of attention, wrappers, replaced
    modules."""
    options = set(model.model_options) - {"transformer_options"} or model.model_options["transformer_options"]
    patches, hooks = set(model.object_patches) - _KNOWN_PATCHES, (_has_hooks(model, name) for name in _HOOKS)
    if any((options, patches, model.hook_patches, *hooks)):
        return None
    try:
        hashed = _hash_patches(model)
        sampling = _hash_sampling(model.get_model_object("model_sampling"))
    except UnknownContent:
        return None
    return {"patches": hashed, "sampling": sampling, "precision": str(model.get_model_object("manual_cast_dtype"))}


def _has_hooks(model: Any, name: str) -> bool:
    """Whether a table of a model's hooks, which is nested by kind and owner, holds any."""
    entries = list(getattr(model, name, {}).values())
    return any(any(entry.values()) if isinstance(entry, Mapping) else bool(entry) for entry in entries)


def _hash_patches(model: Any) -> str:
    hasher = hashlib.sha256()
    for key, patches in sorted(model.patches.items()):
        hasher.update(key.encode())
        for strength, patch, strength_model, offset, function in patches:
            # an adapter, a kind with its tensors, or a list with a whole weight: a merge
            weights = getattr(patch, "weights", patch)
            add_to_digest(hasher, [type(patch).__name__, strength, strength_model, offset, weights, function])
    return hasher.hexdigest()


def _hash_sampling(sampling: Any) -> str:
    """A hash of how a model treats noise: its levels, what it predicts (noise or velocity), and its times."""
    plain = {name: value for name, value in vars(sampling).items() if isinstance(value, (str, int, float, type(None)))}
    hasher = hashlib.sha256()
    kinds = [kind.__name__ for kind in type(sampling).__mro__]
    add_to_digest(hasher, [kinds, {**plain, "training": False}, dict(sampling.named_buffers())])
    return hasher.hexdigest()


def open_teacher_cache(*changes: Mapping[str, Any] | str | None) -> TeacherCache:
    """The cache in ComfyUI's user folder, with the limit from the pack's settings. It keeps nothing if the user has
    switched caches off, or if one of `changes` is None, because the samples then have no key."""
    location = None if None in changes else cache_folder("teacher")
    return TeacherCache(None, 0) if location is None else TeacherCache(*location)
