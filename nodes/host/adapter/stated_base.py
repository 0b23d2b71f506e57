"""What an adapter's file says about the base that it was trained on, from the entries that trainers write."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ....core.files.json_text import read_json
from ..base.file_names import ModelName
from .metadata import PROVENANCE

_LONGEST_NAME = 200  # characters

# Entries with the name of a file or of a repository. Keys inside an entry that is JSON follow a slash.
_NAMES = (
    "ss_sd_model_name",  # sd-scripts
    "base_model_name_or_path",  # PEFT
    "base_model",  # diffusers' examples, civitai
    "lora_adapter_metadata/base_model_name_or_path",  # PEFT inside diffusers
    "config/model/name_or_path",  # ai-toolkit
    "ot_config/base_model_name",  # OneTrainer
)
_HASHES = ("ss_sd_model_hash", "ss_new_sd_model_hash", "sshs_base_model_hash")
_ARCHITECTURES = ("ss_base_model_version", "modelspec.architecture")

# What trainers write when they know no name: it tells nothing.
_NO_NAME = {"", "none", "null", "unknown", "custom", "model", "diffusionpytorchmodel", "unet", "basemodel", "base"}

# Architecture -> how trainers write it, and how ComfyUI's classes of such models begin.
_KNOWN_ARCHITECTURES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "SD 1": (r"^sd_?v?1|^stable-diffusion-v1", ("SD15",)),
    "SD 2": (r"^sd_?v?2|^stable-diffusion-v2", ("SD20", "SD21")),
    "SDXL": (r"^sdxl|^stable-diffusion-xl", ("SDXL", "SSD1B", "Segmind_Vega", "KOALA")),
    "SD 3": (r"^sd_?3|^stable-diffusion-(v?3)", ("SD3",)),
    "Flux.2": (r"^flux\.?-?2", ("Flux2",)),
    "Flux.1": (r"^flux\.?-?1|^flux$", ("Flux", "FluxSchnell", "FluxInpaint")),
}


@dataclass(frozen=True)
class StatedBase:
    """What a file says about its base. names: of files or repositories, the most telling first. hashes: SHA-256 in
    lower-case hex, or the first 8 digits of the old short hash. architecture: a key of _KNOWN_ARCHITECTURES."""

    names: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()
    architecture: str | None = None

    def names_file(self, file_name: str) -> bool:
        """Whether one of the names stands for this file."""
        return any(is_same_model(name, file_name) for name in self.names)


def stated_base(metadata: Mapping[str, str]) -> StatedBase:
    """What the metadata of an adapter's file say about its base. A LoRA that this pack transferred belongs to the
    target of that transfer."""
    own = _value(metadata, f"{PROVENANCE}/target/name")
    listed = [own] if own is not None else [_value(metadata, path) for path in _NAMES]
    names = [name[:_LONGEST_NAME] for name in listed if name is not None and _plain(name) not in _NO_NAME]
    hashes = [] if own is not None else [metadata.get(entry, "").lower().removeprefix("0x") for entry in _HASHES]
    return StatedBase(
        tuple(dict.fromkeys(names)),
        tuple(digest for digest in hashes if re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{64}", digest)),
        next(_architectures(metadata), None),
    )


def architecture_of_family(family: str) -> str | None:
    """The architecture of one of ComfyUI's classes of models; None for one that trainers have no common word for."""
    lengths = {
        len(start): name
        for name, (_, starts) in _KNOWN_ARCHITECTURES.items()
        for start in starts
        if family.startswith(start)
    }
    return lengths[max(lengths)] if lengths else None


def is_same_model(name: str, second_name: str) -> bool:
    """Whether two names of files or repositories stand for the same model. Folders, endings, precision and punctuation
    do not count."""
    return ModelName.of(name).core == ModelName.of(second_name).core


def _plain(name: str) -> str:
    stem = re.sub(r"\.(safetensors|ckpt|pt|pth|bin|gguf|sft)$", "", name.strip().lower())
    return re.sub(r"[^0-9a-z]", "", re.split(r"[/\\]", stem.rstrip("/\\"))[-1])


def _architectures(metadata: Mapping[str, str]) -> Iterator[str]:
    for entry in _ARCHITECTURES:
        written = metadata.get(entry, "").lower()
        yield from (name for name, (spelled, _) in _KNOWN_ARCHITECTURES.items() if re.search(spelled, written))


def _value(metadata: Mapping[str, str], path: str) -> str | None:
    """The text of an entry, or of a key inside an entry that is JSON."""
    entry, *inside = path.split("/")
    written: Any = metadata.get(entry)
    if written is None or not inside:
        return written
    try:
        value = read_json(written)
    except ValueError:
        return None
    for key in inside:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None
