"""Fingerprints of loaded models: a hash of all weights, computed once for each model in memory, and once for all
sessions if the model came from a file."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management
import psutil
import torch
from blake3 import blake3
from torch import Tensor

from ....core.files.file_state import state_at
from ..settings import subspace_cache
from .merge import merge_patches

_CHUNK = 1 << 26  # bytes that are copied from a card at once
_SAMPLES = 16  # bytes of each tensor that show whether a model was changed in place


@dataclass
class _Hashes:
    """sample: hash of a few bytes of every weight; weights: hash of all bytes; merges: hashes of sets of patches, by
    ComfyUI's id."""

    sample: str
    weights: str
    merges: dict[Any, str] = field(default_factory=dict[Any, str])


# Clones of a model share its weights, so the key is the module that holds them. An entry goes when its module goes.
_known: "WeakKeyDictionary[torch.nn.Module, _Hashes]" = WeakKeyDictionary()


def fingerprint_loaded(patcher: Any, model: torch.nn.Module) -> str:
    """BLAKE3 of all weights of a loaded model, as stored and without patches, and of the patches of a merge. Takes
    about a third of a second per gigabyte the first time; later, and in later sessions for a model of a file that has
    not changed, only a few bytes of each weight are compared."""
    tensors = dict(_pristine_tensors(patcher, model))
    sample = _hash_sample(tensors)
    known = _known.get(model)
    if known is None or known.sample != sample:
        known = _known[model] = _Hashes(sample, _hash_or_remember(patcher, tensors, sample))
    merge = {key: of_weight for key, patches in patcher.patches.items() if (of_weight := merge_patches(patches))}
    if not merge:
        return f"weights-blake3:{known.weights}"
    if patcher.patches_uuid not in known.merges:
        known.merges[patcher.patches_uuid] = _hash_of({"": known.weights, **merge})
    return f"merge-blake3:{known.merges[patcher.patches_uuid]}"


def files_of(patcher: Any) -> tuple[Path, ...]:
    """The files that ComfyUI's own loader loaded a model or text encoder from; empty for another loader's."""
    loaded_from = patcher.cached_patcher_init  # (loader, (path or list of paths, ...)), or None
    paths = loaded_from[1][0] if loaded_from else ()
    listed = paths if isinstance(paths, (list, tuple)) else (paths,)
    return tuple(Path(path) for path in listed) if all(isinstance(path, (str, Path)) for path in listed) else ()


def _hash_or_remember(patcher: Any, tensors: Mapping[str, Tensor], sample: str) -> str:
    """The hash of all weights, from the cache if it knows the file and the sample."""
    location = _location(files_of(patcher))
    cache = None if location is None else subspace_cache()
    if cache is None:
        return _hash_of(tensors)
    key = f"loaded {location} {sample}"
    digest = cache.digest_at(key) or _hash_of(tensors)
    cache.store_digest(key, digest)
    return digest


def _location(files: tuple[Path, ...]) -> str | None:
    """Text for the state in which these files were loaded; None if it is unknown.

    Files that changed after this process started may have been loaded before or after that change.
    """
    states = [state_at(path) for path in files]
    if not states or any(state is None or not state.is_older_than(_process_start()) for state in states):
        return None
    return " ".join(f"{path.resolve()} {state.mark()}" for path, state in zip(files, states, strict=True) if state)


@functools.cache
def _process_start() -> float:
    """When this process started, in seconds since 1970."""
    return psutil.Process().create_time()


def _pristine_tensors(patcher: Any, model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every stored tensor and its key, including the parts of quantised weights; patched weights as they were before
    the patches."""
    for key, tensor in model.state_dict().items():
        if key in patcher.backup:
            yield from _parts(key, patcher.backup[key].weight)
        elif tensor.device.type == "meta":  # what ComfyUI-GGUF shows instead of its packed tensor
            module = model.get_submodule(key.rpartition(".")[0])
            yield key, getattr(module, key.rpartition(".")[2], tensor)
        else:
            yield key, tensor


def _parts(key: str, weight: Any) -> Iterator[tuple[str, Tensor]]:
    """A weight as it is stored. A quantised weight lists its parts itself, as they are in ComfyUI's state dicts."""
    if hasattr(weight, "state_dict"):
        yield from weight.state_dict(key).items()
    else:
        yield key, weight


def _hash_sample(tensors: Mapping[str, Tensor]) -> str:
    digest = blake3()
    for key, tensor in tensors.items():
        content = _bytes_of(tensor)
        picked = torch.linspace(0, max(0, len(content) - 1), _SAMPLES).long().clamp(max=max(0, len(content) - 1))
        picked = picked.to(content.device)
        digest.update(f"{key} {len(content)}".encode())
        if len(content):
            digest.update(content[picked].cpu().numpy().data)
    return digest.hexdigest()


def _hash_of(values: Any) -> str:
    digest = blake3(max_threads=blake3.AUTO)
    _add(digest, values)
    return digest.hexdigest()


def _add(digest: blake3, value: Any) -> None:
    """Adds a value to a hash: tensors by their bytes, patches by their contents, functions by their names."""
    if isinstance(value, Tensor):
        comfy.model_management.throw_exception_if_processing_interrupted()
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}".encode())
        parts = list(_parts("", value))
        if len(parts) == 1 and parts[0][1] is value:
            for chunk in _bytes_of(value).split(_CHUNK):
                digest.update(chunk.cpu().numpy().data)
        else:
            _add(digest, dict(parts))
    elif isinstance(value, Mapping):
        for key in sorted(value):
            digest.update(f"key {key} ".encode())
            _add(digest, value[key])
    elif isinstance(value, (list, tuple)):
        digest.update(f"{len(value)} of ".encode())
        for item in value:
            _add(digest, item)
    else:
        is_plain = isinstance(value, (str, int, float, type(None)))
        digest.update(f"{value if is_plain else getattr(value, '__qualname__', type(value))!r} ".encode())


def _bytes_of(tensor: Tensor) -> Tensor:
    """A tensor's values as a row of bytes, on its device; the packed bytes of a tensor of ComfyUI-GGUF."""
    plain = tensor.detach().as_subclass(Tensor)  # pyright: ignore[reportArgumentType]
    return plain.contiguous().reshape(-1).view(torch.uint8)
