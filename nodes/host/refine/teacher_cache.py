"""Keeps teacher samples on disk, in ComfyUI's user folder, for other runs and other targets."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ....core.tensor_store import StoredTensors, TensorStore
from ..sampling.conditioning import UnknownContent, add_to_digest
from ..settings import cache_folder

# Part of every key. Raise it when the same source would give other samples: old entries are then never read again.
_ALGORITHM = 3
_KNOWN_PATCHES = {"model_sampling", "manual_cast_dtype"}  # object patches that describe_changes covers
_HOOKS = ("injections", "wrappers", "callbacks", "additional_models", "weight_wrapper_patches")


@dataclass(frozen=True)
class TeacherCache:
    """Teacher samples by what they depend on. store: None keeps nothing."""

    store: TensorStore | None

    def key(self, facts: Mapping[str, Any]) -> str:
        written = json.dumps({"algorithm": _ALGORITHM, **facts}, sort_keys=True)
        return hashlib.sha256(written.encode()).hexdigest()

    def read(self, key: str) -> dict[str, Tensor] | None:
        """An entry, or None if there is none. A damaged entry is removed."""
        stored = None if self.store is None else self.store.read(key)
        return None if stored is None else dict(stored.tensors)

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep an entry. If it cannot be written, the run goes on without it, and the log says so."""
        if self.store is None:
            return
        try:
            self.store.write(key, StoredTensors(tensors, {}))
        except OSError as error:
            logging.warning(
                "LoRA Transfer: the teacher samples could not be written to %s (%s)", self.store.folder, error
            )


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
    return TeacherCache(None if location is None else TensorStore(*location))
