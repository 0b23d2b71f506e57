"""Groups the tensors of an adapter file by the module that they belong to."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.lora_convert
from torch import Tensor

from ..base.from_model import HostBase
from .spelling.endings import rewrite_ending, split_adapter_name
from .spelling.numbered import name_by_number
from .spelling.prefixes import ANY_TEXT_ENCODER, SECOND_PART
from .unread_kinds import check_not_packed, explain_unread_kind, kinds_of_keys, names_unread_kind

OF_TEXT_ENCODER = "it belongs to a text encoder, and no CLIP is connected"

NO_SUCH_LAYER = "the base has no layer of this name"

NOT_IN_TEXT_ENCODER = "it belongs to a text encoder, and that of the base has no layer of this name"

EMBEDDING = "a learned word (textual inversion): save it as an embedding to keep it"

OF_SECOND_EXPERT = (
    "it belongs to a second transformer (transformer_2: Wan 2.2's expert for low noise), and the file holds the first "
    "one's changes too: save these keys as a file of their own to transfer them"
)

MAGNITUDE = ".lora_magnitude_vector"  # PEFT's DoRA, which ComfyUI does not read

_BIAS_OF_BASE, _WEIGHT_OF_BASE = ".base_layer.bias", ".base_layer.weight"

# Keys of no module, by how they begin.
_OTHER_PARTS = {
    "<": EMBEDDING,
    "bundle_emb.": EMBEDDING,  # OneTrainer, Forge
    **dict.fromkeys(ANY_TEXT_ENCODER, OF_TEXT_ENCODER),
}


@dataclass(frozen=True)
class Group:
    """One module of the file: its name in the file, which PEFT's settings use; its tensors in ComfyUI's spelling; and
    the file's own key of each."""

    module: str = ""
    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    file_keys: dict[str, str] = field(default_factory=dict[str, str])

    def put(self, key: str, file_key: str, tensor: Tensor) -> None:
        """Add a tensor. A second tensor of the same meaning is stored under the file's own key, which nothing reads."""
        key = file_key if key in self.tensors else key
        self.tensors[key], self.file_keys[key] = tensor, file_key

    def keys(self, read: Any = None) -> tuple[str, ...]:
        """The file's keys of all tensors, or of those in `read`. Tensors that ComfyUI added have none."""
        return tuple(
            self.file_keys[key] for key in self.tensors if self.file_keys[key] and (read is None or key in read)
        )


@dataclass(frozen=True)
class _Entry:
    """A tensor of the file: its key and the module's name as in the file, and the ending after the name.

    adapter: PEFT's name of the adapter. Two spellings of a module, or two adapters, are two changes of it.
    """

    file_key: str
    module: str
    ending: str
    adapter: str
    tensor: Tensor


def group_by_module(tensors: dict[str, Tensor], base: HostBase) -> tuple[dict[str, Group], dict[str, str]]:
    """(the file's modules by their name in the base's key map, the other keys with the reason). If two modules name the
    same layer, the first counts.

    UnsupportedAdapter if a name can mean two layers of this base, if numbered modules fit it in no order, or if the
    file was packed for another program's kernels.
    """
    check_not_packed(tensors)
    tensors, unread = _without_second_expert(tensors)
    entries: dict[str, list[_Entry]] = {}
    kinds = kinds_of_keys(tensors)
    for key, file_key, adapter_name, tensor in _in_host_spelling(tensors, base):
        own, module = base.names.module_of(key)
        if own is None:
            unread[file_key] = (
                explain_unread_kind(kinds[file_key]) if file_key in kinds else _explain_no_layer(key, base)
            )
        else:
            ending = _ending_of_norms(key[len(module) :], tensor)
            own, ending = _of_trained_bias(own, ending, key, tensors, base)
            entry = _Entry(file_key, module, ending, adapter_name, tensor)
            entries.setdefault(own, []).append(entry)
    groups = {own: _one_change(own, entries[own], unread) for own in _in_order(entries, base)}
    return groups, unread


def _in_order(names: Collection[str], base: HostBase) -> list[str]:
    """Names of modules in the file's order. If several name the same layer, the name that ComfyUI uses comes first:
    that is the last in its map, because it overwrites the others."""
    positions = {name: position for position, name in enumerate(base.key_map)}
    first: dict[Any, int] = {}
    for name in names:
        first.setdefault(base.key_map[name], len(first))
    return sorted(names, key=lambda name: (first[base.key_map[name]], name in base.extra, -positions[name]))


def _without_second_expert(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(the tensors, the keys of a second expert with the reason). In a file with the second expert only, its keys
    belong to the chosen base."""
    if not any(key.startswith("transformer.") for key in tensors):
        return tensors, {}
    unread = {key: OF_SECOND_EXPERT for key in tensors if key.startswith(f"{SECOND_PART}.")}
    return {key: tensor for key, tensor in tensors.items() if key not in unread}, unread


def explain_no_match(adapter: str, base: HostBase, unread: Mapping[str, str]) -> str:
    """The error for an adapter without any key that names a layer of the base."""
    if set(unread.values()) == {OF_TEXT_ENCODER}:
        return (
            f"LoRA {adapter}: it changes the text encoder alone, and {base.name} has none. Connect the CLIP too: to "
            "both Load Base nodes, or to Apply LoRA. Check Transfer and Refine LoRA cannot use it."
        )
    reasons = set(unread.values())
    if len(reasons) == 1 and (names_unread_kind(reason := reasons.pop()) or reason == EMBEDDING):
        return f"LoRA {adapter}: nothing of it can be transferred (first: {next(iter(unread))}): {reason}."
    return (
        f"LoRA {adapter}: expected a LoRA for {base.name} ({base.family}), found {len(unread)} keys, none of which "
        f"names a layer of it (first: {next(iter(unread))}). Either it was made for another model: choose or connect "
        "that one here; or its trainer gives layers names that cannot be read: docs/formats.md in the pack's folder "
        "lists those that can."
    )


def _one_change(own: str, entries: list[_Entry], unread: dict[str, str]) -> Group:
    """The tensors of a module. If the file has several changes of it (two prefixes, two adapters of PEFT), only the
    change with the most keys counts, or else the first: factors of two changes must not be mixed."""
    by_source: dict[tuple[str, str], list[_Entry]] = {}
    for entry in entries:
        by_source.setdefault((entry.module, entry.adapter), []).append(entry)
    sources = sorted(by_source.values(), key=len, reverse=True)
    group = Group(sources[0][0].module)
    for change in sources:
        used = {key.removeprefix(own): file_key for key, file_key in group.file_keys.items()}
        if again := [entry for entry in change if entry.ending in used]:
            first = used[again[0].ending]
            is_adapter = change[0].module == group.module  # so PEFT's name of the adapter is another
            what = "of another adapter in the file than" if is_adapter else "another spelling of"
            unread |= {entry.file_key: f"{what} {used.get(entry.ending, first)}, which was read" for entry in change}
            continue
        for entry in change:
            group.put(own + entry.ending, entry.file_key, entry.tensor)
    return group


def _in_host_spelling(tensors: dict[str, Tensor], base: HostBase) -> Iterator[tuple[str, str, str, Tensor]]:
    """(key with an ending that ComfyUI reads, the file's key, PEFT's name of the adapter, tensor) for every tensor.
    ComfyUI's own conversions keep the tensor objects, so identity gives the file's key. What it adds (the shape of a
    widened layer) has no key in the file."""
    file_keys = {id(tensor): key for key, tensor in tensors.items()}
    numbered = name_by_number(tensors, base)
    converted = comfy.lora_convert.convert_lora(dict(tensors))  # a copy, because it removes the old keys of Wan-Fun
    for key, tensor in converted.items():
        plain, adapter_name = split_adapter_name(key)
        # The key itself comes first, because two keys may share a tensor.
        file_key = key if tensors.get(key) is tensor else file_keys.get(id(tensor), "")
        yield numbered.get(key) or rewrite_ending(plain), file_key, adapter_name, tensor


def _of_trained_bias(own: str, ending: str, key: str, tensors: Mapping[str, Tensor], base: HostBase) -> tuple[str, str]:
    """(module, ending) of a key. A bias that PEFT trained (bias="lora_only") replaces the base's bias. If the base's
    weight is in the file too, neither was trained."""
    if ending != _BIAS_OF_BASE or key.removesuffix(_BIAS_OF_BASE) + _WEIGHT_OF_BASE in tensors:
        return own, ending
    bias = str(base.key_map[own]).removesuffix(".weight") + ".bias"
    return (bias, ".set_weight") if bias in base.key_map else (own, ".trained_bias")


def _ending_of_norms(ending: str, tensor: Tensor) -> str:
    """The ending of a key of DoRA's norms. Norms of one dimension are PEFT's, which diffusers writes as kohya's
    dora_scale. ComfyUI would divide them by norms of two dimensions."""
    return MAGNITUDE if ending == ".dora_scale" and tensor.ndim == 1 else ending


def _explain_no_layer(key: str, base: HostBase) -> str:
    reason = next((reason for start, reason in _OTHER_PARTS.items() if key.startswith(start)), NO_SUCH_LAYER)
    has_encoder = reason == OF_TEXT_ENCODER and any(layer.text_encoder for layer in base.layers.values())
    return NOT_IN_TEXT_ENCODER if has_encoder else reason
