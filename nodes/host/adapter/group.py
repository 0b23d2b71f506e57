"""The tensors of an adapter file by the module that they belong to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.lora_convert
from torch import Tensor

from ..base.from_model import HostBase
from .spelling import host_key, named_by_number

OF_TEXT_ENCODER = "it belongs to a text encoder: connect the CLIP to take it along"

NO_SUCH_LAYER = "the base has no layer of this name"

_TEXT_ENCODER_KEYS = ("lora_te", "text_encoder", "text_model", "lora_prior_te")


@dataclass(frozen=True)
class Group:
    """One module of the file: its tensors in the host's spelling, and the file's own key of each."""

    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    file_keys: dict[str, str] = field(default_factory=dict[str, str])

    def keys(self, read: Any = None) -> tuple[str, ...]:
        """The file's keys, of all tensors or of those in `read`; what the host added has none."""
        return tuple(
            self.file_keys[key] for key in self.tensors if self.file_keys[key] and (read is None or key in read)
        )


def grouped(tensors: dict[str, Tensor], base: HostBase) -> tuple[dict[str, Group], dict[str, str]]:
    """The file's modules by their name in the base's key map, and the keys that belong to none, with the reason."""
    groups: dict[str, Group] = {}
    spelled, unread = _in_host_spelling(tensors, base)
    longest = max(map(len, base.key_map), default=0)
    for key, (file_key, tensor) in spelled.items():
        module = _module_of(key, base.key_map, longest)
        if module is not None:
            group = groups.setdefault(module, Group())
            group.tensors[key], group.file_keys[key] = tensor, file_key
        elif key.startswith("<"):
            unread[file_key] = "a learned word (textual inversion): save it as an embedding to keep it"
        elif key.startswith(_TEXT_ENCODER_KEYS):
            unread[file_key] = OF_TEXT_ENCODER
        else:
            unread[file_key] = NO_SUCH_LAYER
    return groups, unread


def why_nothing_is_named(adapter: str, base: HostBase, unread: Mapping[str, str]) -> str:
    """The sentence for an adapter of which no key names a layer of the base."""
    if set(unread.values()) == {OF_TEXT_ENCODER}:
        return (
            f"LoRA {adapter}: it changes the text encoder alone, and {base.name} comes without. Connect the CLIP too: "
            "to both Load Base nodes, or to Apply LoRA."
        )
    return (
        f"LoRA {adapter}: expected a LoRA for {base.name} ({base.family}), found {len(unread)} keys of which none "
        f"names a layer of it (first: {next(iter(unread))}). Choose the base that it was trained on as the source."
    )


def _in_host_spelling(
    tensors: dict[str, Tensor], base: HostBase
) -> tuple[dict[str, tuple[str, Tensor]], dict[str, str]]:
    """Key in ComfyUI's spelling -> (the file's key, tensor), and the keys that mean what an earlier one means.
    ComfyUI's own conversions keep the tensors: they are found again by identity, and what it adds (the shape of a
    widened layer) belongs to no key of the file."""
    numbered = named_by_number(tensors, base.diffusers)
    file_keys = {id(tensor): key for key, tensor in tensors.items()}
    converted = comfy.lora_convert.convert_lora(tensors)
    if converted is not tensors:
        return {key: (file_keys.get(id(tensor), ""), tensor) for key, tensor in converted.items()}, {}
    spelled: dict[str, tuple[str, Tensor]] = {}
    again: dict[str, str] = {}
    for key, tensor in tensors.items():
        wanted = numbered.get(key) or host_key(key)
        if wanted in spelled:
            again[key] = f"another spelling of {spelled[wanted][0]}, which was read"
        else:
            spelled[wanted] = key, tensor
    return spelled, again


def _module_of(key: str, key_map: Mapping[str, Any], longest: int) -> str | None:
    """The longest name of the key map that the key begins with, ending where a suffix (`.alpha`, `_lora.up`) begins.
    No name is longer than `longest`: further ends are not looked at."""
    ends = [end for end in range(min(len(key), longest + 1)) if key[end] == "." or key.startswith("_lora.", end)]
    return next((key[:end] for end in reversed(ends) if key[:end] in key_map), None)
