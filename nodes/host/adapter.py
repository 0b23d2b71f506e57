"""Adapters between nodes: where their tensors are, and what their files say of themselves."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from ...core.errors import InvalidSetting, UnreadableFile
from ...core.files import file_sha256, open_tensor_file
from ...core.report import Report

PROVENANCE = "lora_transfer"  # the key of our own entry in a file's metadata

SAVED_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Adapter:
    """An adapter by its file or by its tensors (core's LORA_MODEL socket): exactly one of `path` and `tensors`."""

    name: str
    fingerprint: str
    metadata: Mapping[str, str]
    path: Path | None = None
    tensors: Mapping[str, Tensor] | None = None

    def state_dict(self) -> dict[str, Tensor]:
        """A new dict of the adapter's tensors; those of a file are mapped, not read."""
        if self.tensors is not None:
            return dict(self.tensors)
        tensors: Any = comfy.utils.load_torch_file(str(self.path), safe_load=True)
        return tensors


def adapter_from_file(path: Path, name: str) -> Adapter:
    """An adapter file by its header; UnreadableFile where it is missing, damaged or empty."""
    file = open_tensor_file(path)
    if not file.tensors:
        raise UnreadableFile(f"LoRA {name}: expected tensors, found an empty file. Choose another one.")
    return Adapter(name, file_sha256(path), file.metadata, path=path)


def adapter_from_state_dict(tensors: Mapping[str, Tensor], name: str) -> Adapter:
    """An adapter from a LORA_MODEL socket, which carries tensors and nothing else."""
    if not tensors:
        raise UnreadableFile(f"LoRA {name}: expected tensors, found none. Connect a LoRA that holds some.")
    return Adapter(name, fingerprint_of(tensors), {}, tensors=tensors)


def fingerprint_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and bytes; independent of the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(tensors[key].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return "tensors-sha256:" + digest.hexdigest()


def transferred_adapter(original: Adapter, tensors: Mapping[str, Tensor], report: Report) -> Adapter:
    """The adapter for the target, with the original's metadata and, under `lora_transfer`, its origin as JSON."""
    provenance = report.provenance()
    if PROVENANCE in original.metadata:  # carried over before: A -> B -> C keeps the whole way
        provenance["before"] = json.loads(original.metadata[PROVENANCE])
    metadata = {**original.metadata, PROVENANCE: json.dumps(provenance)}
    return Adapter(f"{original.name} on {report.target.name}", fingerprint_of(tensors), metadata, tensors=tensors)


def apply(
    adapter: Adapter, model: Any, clip: Any | None, strength_model: float, strength_clip: float
) -> tuple[Any, Any]:
    """(model, clip) with the adapter on them: the host's own function, so the result is that of its LoRA loader."""
    if strength_model == 0 and strength_clip == 0:
        return model, clip  # as ComfyUI's own loader does: the very same model, bit by bit
    return comfy.sd.load_lora_for_models(model, clip, adapter.state_dict(), strength_model, strength_clip)


def for_file(adapter: Adapter, dtype: str) -> dict[str, Tensor]:
    """The adapter's tensors in a precision for saving; InvalidSetting where it cannot hold them."""
    cast = {key: tensor.to(SAVED_DTYPES[dtype]).contiguous() for key, tensor in adapter.state_dict().items()}
    for key, tensor in cast.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidSetting(
                f"Saving {adapter.name} as {dtype}: {key} holds values beyond what {dtype} can (largest "
                f"{float(adapter.state_dict()[key].abs().max()):.3g}). Nothing was written: choose bfloat16 or float32."
            )
    return cast
