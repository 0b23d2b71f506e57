"""Adapters as they travel between nodes: a file, tensors, or changes that the pack has computed."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....core.delta import LowRankDelta
from ....core.errors import UnreadableFile
from ....core.files import file_sha256, open_tensor_file, read_tensors
from ....core.files.file_state import FileState, open_unchanged, state_when_opened, unchanged
from ....core.files.header import check_names
from ....core.files.pickled import read_pickled
from ....core.reports.transfer import Report
from ....core.vectors import Vector
from ..base.from_model import HostBase
from .metadata import transferred_metadata
from .spelling.numbered import number_bare_list
from .write import count_values, to_state_dict

_SURROGATES = re.compile("[\ud800-\udfff]")

# Pickled files that users still have.
PICKLED = (".pt", ".bin", ".ckpt", ".pth")

# Beginnings of keys -> files that are chosen by mistake.
_NOT_ADAPTERS = {
    "model.diffusion_model.input_blocks.0.0.weight": "a whole checkpoint",
    "first_stage_model.": "a whole checkpoint",
    "control_model.": "a ControlNet",
    "controlnet_": "a ControlNet",
    "input_hint_block.": "a ControlNet",
}


@dataclass(frozen=True)
class Adapter:
    """An adapter: exactly one of the path of its file, its tensors (from a LORA_MODEL socket), or computed changes.

    fingerprint: a hash of its whole content. state: the state of the file that was hashed; tensors are only read from a
    file in that state. fits: the base that the pack transferred it to, which knows the names of its layers. origin:
    the name of the LoRA that it was made from; empty for the LoRA as loaded.
    """

    name: str
    fingerprint: str
    metadata: Mapping[str, str]
    path: Path | None = None
    tensors: Mapping[str, Tensor] | None = None
    changes: "LayerChanges | None" = None
    state: FileState | None = None
    fits: HostBase | None = None
    origin: str = ""

    def state_dict(self) -> dict[str, Tensor]:
        """A new dict of the adapter's tensors. The tensors of a file are copied into memory, never mapped."""
        if self.changes is not None:
            return self.changes.tensors()
        if self.tensors is not None:
            return dict(self.tensors)
        path = Path(str(self.path))
        with unchanged(path, self.state):
            return _read(path, self.name)


@dataclass(frozen=True)
class LayerChanges:
    """The changes that an adapter makes to a base: everything that its file is written from.

    deltas: by layer, including the scale. scales: by layer, alpha / rank of the original. widened: by layer, the shape
    to which the delta pads it (Flux control LoRAs).
    """

    base: HostBase
    deltas: Mapping[str, LowRankDelta]
    scales: Mapping[str, float]
    vectors: tuple[Vector, ...] = ()
    widened: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])

    def tensors(self, spelling: str = "comfy") -> dict[str, Tensor]:
        """The tensors of the adapter's file, in a spelling of write.SPELLINGS."""
        return to_state_dict(self.deltas, self.scales, self.base, spelling, vectors=self.vectors, widened=self.widened)

    def count_values(self) -> int:
        """How many values the adapter's file holds, without forming them."""
        return count_values(self.deltas, self.base, self.vectors)

    def adapter(self, name: str, metadata: Mapping[str, str], origin: str = "") -> Adapter:
        """The adapter that makes these changes."""
        return Adapter(name, fingerprint_of(self.tensors()), metadata, changes=self, fits=self.base, origin=origin)


def adapter_from_file(path: Path, name: str) -> Adapter:
    """Open an adapter file. UnreadableFile if it is missing, damaged, empty or not an adapter. Pickled files (.pt,
    .bin) are read without running the code in them."""
    if not path.is_file():
        raise UnreadableFile(f"File {path}: not found. Check the name, or refresh the list of files.")
    with open_unchanged(path, None) as stream:
        state = state_when_opened(stream)
    with unchanged(path, state):
        if path.suffix.lower() not in PICKLED:
            file = open_tensor_file(path)
            keys, metadata = file.tensors.keys(), file.metadata
        else:
            keys, metadata = _read(path, name).keys(), {}
        fingerprint = file_sha256(path, state)
    if not keys:
        raise UnreadableFile(f"LoRA {name}: expected tensors, found an empty file. Choose another file.")
    for prefix, kind in _NOT_ADAPTERS.items():
        if any(key.startswith(prefix) for key in keys):
            raise UnreadableFile(
                f"LoRA {name}: expected a LoRA, found {kind} (its keys begin with {prefix}). Choose another file."
            )
    return Adapter(name, fingerprint, metadata, path=path, state=state)


def adapter_from_state_dict(tensors: Mapping[str, Tensor], name: str) -> Adapter:
    """An adapter from a LORA_MODEL socket, which holds only tensors."""
    if not tensors:
        raise UnreadableFile(f"LoRA {name}: expected tensors, found none. Connect another LoRA.")
    _check_names(tensors, name)
    return Adapter(name, fingerprint_of(tensors), {}, tensors=tensors)


def fingerprint_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all names, dtypes, shapes and bytes; independent of the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)} ".encode(errors="surrogatepass"))
        digest.update(tensors[key].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return "tensors-sha256:" + digest.hexdigest()


def transferred_adapter(original: Adapter, changes: LayerChanges, report: Report) -> Adapter:
    """The adapter for the target, with the original's metadata, and its origin as JSON under `lora_transfer`."""
    metadata = transferred_metadata(original.metadata, changes.tensors(), report, changes.base)
    name = f"{original.name} on {changes.base.name}"
    return changes.adapter(name, metadata, original.origin or original.name)


def _read(path: Path, name: str) -> dict[str, Tensor]:
    """Every tensor of an adapter file; bare lists of factors get numbered keys."""
    tensors = _unpickled(path, name) if path.suffix.lower() in PICKLED else read_tensors(path)
    if isinstance(tensors, list):
        wrong = next((type(entry).__name__ for entry in tensors if not isinstance(entry, Tensor)), None)
        if wrong is not None or len(tensors) % 2:
            content = f"an odd number of tensors ({len(tensors)})" if wrong is None else f"an entry of type {wrong}"
            raise UnreadableFile(
                f"LoRA {name}: expected a list of pairs, up and down, found {content}. This is not a LoRA: choose "
                "another file."
            )
        tensors = number_bare_list(tensors)
    if not isinstance(tensors, dict):
        raise UnreadableFile(
            f"LoRA {name}: expected named tensors, found {type(tensors).__name__}. This is not a LoRA: choose another "
            "file."
        )
    _check_names(tensors, name)
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UnreadableFile(
                f"LoRA {name}: expected tensors by name, found {type(value).__name__} under {key!r}. This is not a "
                "LoRA: choose another file."
            )
        if not key.isascii() and _SURROGATES.search(key):  # cannot be written to a file
            raise UnreadableFile(
                f"LoRA {name}: expected names in text, found {ascii(key)[:80]}. This is not a LoRA: choose another "
                "file."
            )
    return {key: value.detach() for key, value in tensors.items()}


def _check_names(tensors: Mapping[Any, Any], name: str) -> None:
    try:
        check_names(tensors)
    except ValueError as error:
        raise UnreadableFile(f"LoRA {name}: expected a LoRA, but {error}. Choose another file.") from error


def _unpickled(path: Path, name: str) -> Any:
    """The content of a pickled file; if that is a dict with `state_dict` or with a single dict, that dict. Code in the
    file is refused and never run."""
    if not path.is_file():
        raise UnreadableFile(f"File {path}: not found. Check the name, or refresh the list of files.")
    try:
        content: Any = read_pickled(path)
    except ValueError as error:
        raise UnreadableFile(
            f"LoRA {name}: expected tensors, found a file that has none, is damaged, or contains code, which is not "
            f"run ({str(error)[:160]}). Use a safetensors version of it."
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        return content["state_dict"]
    only = next(iter(content.values())) if isinstance(content, dict) and len(content) == 1 else None
    return only if isinstance(only, dict) else content
