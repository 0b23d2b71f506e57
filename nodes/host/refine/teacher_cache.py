"""Teacher sets on disk, in ComfyUI's user folder: what was asked once, no other target or run need ask."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..sampling.conditioning import add_to_digest
from ..settings import cache_place

# Part of every key: raised when the same question would be answered otherwise, which makes old entries unreachable.
_ALGORITHM = 2
_TENSORS = {"states", "noise", "levels", "prompts"}
_TOLD = {"model_sampling", "manual_cast_dtype"}  # object patches that a key tells, or need not tell
_UNFINISHED, _A_DAY = ".unfinished", 24 * 3600  # seconds


@dataclass(frozen=True)
class TeacherCache:
    """folder: None keeps nothing; limit: bytes, beyond which the least recently used go."""

    folder: Path | None
    limit: int

    def key(self, facts: Mapping[str, Any]) -> str:
        written = json.dumps({"algorithm": _ALGORITHM, **facts}, sort_keys=True)
        return hashlib.sha256(written.encode()).hexdigest()

    def read(self, key: str) -> dict[str, Tensor] | None:
        """An entry, or None where there is none. A damaged one is removed: it is made anew."""
        if self.folder is None or not (path := self._path(key)).is_file():
            return None
        try:
            tensors = {name: one.clone() for name, one in load_file(path).items()}  # Windows keeps a mapped file locked
            if not tensors.keys() >= _TENSORS:
                raise SafetensorError("it lacks tensors")
            os.utime(path)
        except (OSError, SafetensorError) as error:
            logging.warning("LoRA Transfer: the kept teacher set %s cannot be read (%s); it is made anew", path, error)
            path.unlink(missing_ok=True)
            return None
        return tensors

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep an entry, whole or not at all. Where there is no room for it the run goes on without."""
        if self.folder is None:
            return
        unfinished = self.folder / f"{uuid4().hex}{_UNFINISHED}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                save_file(dict(tensors), unfinished)
                os.replace(unfinished, self._path(key))
            finally:
                unfinished.unlink(missing_ok=True)
            self._sweep(key)
        except (OSError, SafetensorError) as error:
            logging.warning("LoRA Transfer: the teacher set is not kept in %s (%s)", self.folder, error)

    def _path(self, key: str) -> Path:
        return Path(str(self.folder)) / f"{key}.safetensors"

    def _sweep(self, newest: str) -> None:
        """Remove the least recently used beyond the limit, but for the newest, and what a crash left."""
        folder = Path(str(self.folder))
        for left in folder.glob(f"*{_UNFINISHED}"):
            if time.time() - left.stat().st_mtime > _A_DAY:
                left.unlink(missing_ok=True)
        entries = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
        taken = 0
        for path in entries:
            taken += path.stat().st_size
            if taken > self.limit and path != self._path(newest):
                path.unlink(missing_ok=True)


def changes_of(model: Any) -> dict[str, Any] | None:
    """What makes a loaded model answer otherwise than its base, whose fingerprint leaves it out, as JSON has it. None
    where it cannot be told by content: patches of attention, wrappers, modules put in place of others."""
    others = set(model.model_options) - {"transformer_options"} or model.model_options["transformer_options"]
    if others or set(model.object_patches) - _TOLD or model.hook_patches or any(model.injections.values()):
        return None
    if any(some for by_key in model.wrappers.values() for some in by_key.values()):
        return None
    sampling = type(model.get_model_object("model_sampling"))  # with the same levels it may be of noise or of velocity
    return {"patches": _patches_digest(model), "sampling": [kind.__name__ for kind in sampling.__mro__]}


def _patches_digest(model: Any) -> str:
    found = hashlib.sha256()
    for key, patches in sorted(model.patches.items()):
        found.update(key.encode())
        for strength, patch, strength_model, offset, _ in patches:
            # an adapter, a kind with its tensors, or a list with a whole weight: a merge
            weights = getattr(patch, "weights", patch)
            add_to_digest(found, [strength, strength_model, offset, weights])
    return found.hexdigest()


def teacher_cache(changes: Mapping[str, Any] | None) -> TeacherCache:
    """In ComfyUI's user folder, within the limit of the pack's settings; where the user keeps nothing, neither here,
    nor where a model's changes cannot be told."""
    place = None if changes is None else cache_place("teacher")
    return TeacherCache(None, 0) if place is None else TeacherCache(*place)
