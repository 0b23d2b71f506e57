"""Fingerprints of loaded models: a hash of every weight, taken once for each model in memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management
import torch
from blake3 import blake3
from torch import Tensor

from .merge import merge_patches

_CHUNK = 1 << 26  # bytes that are brought from a card at once
_SAMPLES = 16  # bytes of each tensor that tell whether a model was changed in place


@dataclass
class _Hashes:
    """sample: of a few bytes of every weight; weights: of all; merges: by ComfyUI's id of a set of patches."""

    sample: str
    weights: str
    merges: dict[Any, str] = field(default_factory=dict[Any, str])


# Clones of a model share its weights: the key is the module that holds them, and goes with it.
_known: "WeakKeyDictionary[torch.nn.Module, _Hashes]" = WeakKeyDictionary()


def fingerprint_loaded(patcher: Any, model: torch.nn.Module) -> str:
    """BLAKE3 of all weights of a loaded model, as they are stored and without patches, and of the patches of a merge.
    About a third of a second for a gigabyte in memory, once; later only a few bytes of each weight are compared."""
    tensors = dict(_pristine_tensors(patcher, model))
    sample = _sampled(tensors)
    known = _known.get(model)
    if known is None or known.sample != sample:
        known = _known[model] = _Hashes(sample, _hash_of(tensors))
    merge = {key: of_weight for key, patches in patcher.patches.items() if (of_weight := merge_patches(patches))}
    if not merge:
        return f"weights-blake3:{known.weights}"
    if patcher.patches_uuid not in known.merges:
        known.merges[patcher.patches_uuid] = _hash_of({"": known.weights, **merge})
    return f"merge-blake3:{known.merges[patcher.patches_uuid]}"


def _pristine_tensors(patcher: Any, model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every stored tensor by its key, a quantised weight's parts too; of patched weights what they were before."""
    for key, tensor in model.state_dict().items():
        if key in patcher.backup:
            yield from _parts(key, patcher.backup[key].weight)
        elif tensor.device.type == "meta":  # ComfyUI-GGUF shows these in place of its own
            module = model.get_submodule(key.rpartition(".")[0])
            yield key, getattr(module, key.rpartition(".")[2], tensor)
        else:
            yield key, tensor


def _parts(key: str, weight: Any) -> Iterator[tuple[str, Tensor]]:
    """A weight as it is stored: a quantised one tells its parts itself, as ComfyUI's state dicts have them."""
    if hasattr(weight, "state_dict"):
        yield from weight.state_dict(key).items()
    else:
        yield key, weight


def _sampled(tensors: Mapping[str, Tensor]) -> str:
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
    """Tensors by their bytes, patches by what is in them, functions by their names."""
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
        for one in value:
            _add(digest, one)
    else:
        said = (
            value if isinstance(value, (str, int, float, type(None))) else getattr(value, "__qualname__", type(value))
        )
        digest.update(f"{said!r} ".encode())


def _bytes_of(tensor: Tensor) -> Tensor:
    """A tensor's values as one row of bytes, on its device; of ComfyUI-GGUF's, what is stored."""
    plain = tensor.detach().as_subclass(Tensor)  # pyright: ignore[reportArgumentType]
    return plain.contiguous().reshape(-1).view(torch.uint8)
