"""Adapters between nodes: as the user's file, as tensors, or as the pack's own changes of a base's layers."""

import hashlib
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
from .write import to_state_dict

# Pickled files that users still have.
_PICKLED = (".pt", ".bin", ".ckpt", ".pth")

# Files that are chosen by mistake, by how their keys begin.
_NO_ADAPTERS = {
    "model.diffusion_model.input_blocks.0.0.weight": "a whole checkpoint",
    "first_stage_model.": "a whole checkpoint",
    "control_model.": "a ControlNet",
    "controlnet_": "a ControlNet",
    "input_hint_block.": "a ControlNet",
}


@dataclass(frozen=True)
class Adapter:
    """An adapter held as exactly one of: the path of its file, its tensors (from a LORA_MODEL socket), or changes that
    the pack computed.

    fingerprint: a hash of all its content. state: the file as it was hashed; its tensors are read from that state only.
    fits: the base that the pack transferred it to, which knows the names of its layers.
    """

    name: str
    fingerprint: str
    metadata: Mapping[str, str]
    path: Path | None = None
    tensors: Mapping[str, Tensor] | None = None
    changes: "LayerChanges | None" = None
    state: FileState | None = None
    fits: HostBase | None = None

    def state_dict(self) -> dict[str, Tensor]:
        """A new dict of the adapter's tensors. Those of a file are read into memory of their own, never mapped."""
        if self.changes is not None:
            return self.changes.tensors()
        if self.tensors is not None:
            return dict(self.tensors)
        path = Path(str(self.path))
        with unchanged(path, self.state):
            return _read(path, self.name)


@dataclass(frozen=True)
class LayerChanges:
    """What an adapter changes on the layers of a base: all that its file is written from.

    deltas: by layer, the scale inside. scales: by layer, alpha / rank of the original. widened: by layer, the shape to
    which the delta pads it (Flux control LoRAs).
    """

    base: HostBase
    deltas: Mapping[str, LowRankDelta]
    scales: Mapping[str, float]
    vectors: tuple[Vector, ...] = ()
    widened: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])

    def tensors(self, spelling: str = "comfy") -> dict[str, Tensor]:
        """The tensors of the adapter's file, in a spelling of write.SPELLINGS."""
        return to_state_dict(self.deltas, self.scales, self.base, spelling, vectors=self.vectors, widened=self.widened)

    def adapter(self, name: str, metadata: Mapping[str, str]) -> Adapter:
        """The adapter that makes these changes."""
        return Adapter(name, fingerprint_of(self.tensors()), metadata, changes=self, fits=self.base)


def adapter_from_file(path: Path, name: str) -> Adapter:
    """An adapter file; UnreadableFile where it is missing, damaged, empty or no adapter. Pickled files (.pt, .bin) are
    read without running code in them."""
    if not path.is_file():
        raise UnreadableFile(f"File {path}: not found. Check the name, or refresh the list of files.")
    with open_unchanged(path, None) as stream:
        state = state_when_opened(stream)
    with unchanged(path, state):
        if path.suffix.lower() not in _PICKLED:
            file = open_tensor_file(path)
            keys, metadata = file.tensors.keys(), file.metadata
        else:
            keys, metadata = _read(path, name).keys(), {}
        fingerprint = file_sha256(path, state)
    if not keys:
        raise UnreadableFile(f"LoRA {name}: expected tensors, found an empty file. Choose another one.")
    for mark, what in _NO_ADAPTERS.items():
        if any(key.startswith(mark) for key in keys):
            raise UnreadableFile(f"LoRA {name}: expected a LoRA, found {what} (its keys begin with {mark}).")
    return Adapter(name, fingerprint, metadata, path=path, state=state)


def adapter_from_state_dict(tensors: Mapping[str, Tensor], name: str) -> Adapter:
    """An adapter from a LORA_MODEL socket, which carries tensors and nothing else."""
    if not tensors:
        raise UnreadableFile(f"LoRA {name}: expected tensors, found none. Connect a LoRA that holds some.")
    _check_names(tensors, name)
    return Adapter(name, fingerprint_of(tensors), {}, tensors=tensors)


def fingerprint_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, kinds, shapes and bytes; independent of the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)} ".encode(errors="surrogatepass"))
        digest.update(tensors[key].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return "tensors-sha256:" + digest.hexdigest()


def transferred_adapter(original: Adapter, changes: LayerChanges, report: Report) -> Adapter:
    """The adapter for the target, with the original's metadata and, under `lora_transfer`, its origin as JSON."""
    metadata = transferred_metadata(original.metadata, changes.tensors(), report, changes.base)
    return changes.adapter(f"{original.name} on {changes.base.name}", metadata)


def _read(path: Path, name: str) -> dict[str, Tensor]:
    """Every tensor of an adapter file; bare lists of factors get numbered keys."""
    tensors = _unpickled(path, name) if path.suffix.lower() in _PICKLED else read_tensors(path)
    if isinstance(tensors, list):
        wrong = next((type(one).__name__ for one in tensors if not isinstance(one, Tensor)), None)
        if wrong is not None or len(tensors) % 2:
            found = f"{len(tensors)} of them" if wrong is None else f"an entry of type {wrong}"
            raise UnreadableFile(f"LoRA {name}: expected a list of up and down in pairs, found {found}. It is no LoRA.")
        tensors = number_bare_list(tensors)
    if not isinstance(tensors, dict):
        raise UnreadableFile(f"LoRA {name}: expected named tensors, found {type(tensors).__name__}. It is no LoRA.")
    _check_names(tensors, name)
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UnreadableFile(
                f"LoRA {name}: expected tensors by name, found {type(value).__name__} under {key!r}. It is no LoRA."
            )
        if any("\ud800" <= letter <= "\udfff" for letter in key):  # no file can be written with it
            raise UnreadableFile(f"LoRA {name}: expected names in text, found {ascii(key)[:80]}. It is no LoRA.")
    return {key: value.detach() for key, value in tensors.items()}


def _check_names(tensors: Mapping[Any, Any], name: str) -> None:
    try:
        check_names(tensors)
    except ValueError as error:
        raise UnreadableFile(f"LoRA {name}: expected a LoRA, but {error}. It is no LoRA.") from error


def _unpickled(path: Path, name: str) -> Any:
    """What a pickled file holds, at most within `state_dict` or an only entry; code in it is refused, not run."""
    if not path.is_file():
        raise UnreadableFile(f"File {path}: not found. Check the name, or refresh the list of files.")
    try:
        held: Any = read_pickled(path)
    except ValueError as error:
        raise UnreadableFile(
            f"LoRA {name}: expected tensors, found a file that holds none, is damaged, or holds code that is not run "
            f"({str(error)[:160]}). Take a safetensors version of it."
        ) from error
    if isinstance(held, dict) and isinstance(held.get("state_dict"), dict):
        return held["state_dict"]
    only = next(iter(held.values())) if isinstance(held, dict) and len(held) == 1 else None
    return only if isinstance(only, dict) else held
