"""An adapter on the layers of a base and back into a file: ComfyUI's reader, with every key accounted for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.lora
import comfy.lora_convert
import torch
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ...core.delta import LowRankDelta
from ...core.errors import ShapeMismatch, UnsupportedAdapter
from ...core.layers import Skipped
from ...core.plan import Module
from .adapter import Adapter
from .base import HostBase
from .names import layer_name

_TEXT_ENCODER_KEYS = ("lora_te", "text_encoder", "text_model", "lora_prior_te")


@dataclass(frozen=True)
class PlacedAdapter:
    """An adapter on the layers of a base. Every key of the file is in a module, in `skipped` or in `unread`.

    deltas: layer -> delta, scale inside, in the file's precision promoted to float32. scales: layer -> alpha / rank.
    """

    modules: tuple[Module, ...]
    deltas: Mapping[str, LowRankDelta]
    scales: Mapping[str, float]
    skipped: tuple[Skipped, ...]
    unread: Mapping[str, str]

    def layers(self) -> list[str]:
        return [module.layer for module in self.modules]


def place(adapter: Adapter, base: HostBase) -> PlacedAdapter:
    """Put every module of the adapter on its layer of the base, through the host's key map and its reader.

    UnsupportedAdapter when not a single key belongs to the base: it was made for another family.
    """
    groups, unread = _by_module(comfy.lora_convert.convert_lora(adapter.state_dict()), base.key_map)
    if not groups:
        raise UnsupportedAdapter(
            f"LoRA {adapter.name}: expected a LoRA for {base.name} ({base.family}), found {len(unread)} keys of which "
            f"none names a layer of it (first: {next(iter(unread))}). Choose the base that it was trained on as the "
            "source."
        )
    modules: dict[str, Module] = {}
    deltas: dict[str, LowRankDelta] = {}
    scales: dict[str, float] = {}
    skipped: list[Skipped] = []
    for spelled, tensors in groups.items():
        target = base.key_map[spelled]
        layer, patch = layer_name(target), _read_patch(tensors, spelled, target)
        if reason := _refusal(patch, layer, base, modules):
            skipped.append(Skipped(layer, reason, tuple(tensors)))
            continue
        unread |= {key: "the host reads no such key of a LoRA" for key in tensors if key not in patch.loaded_keys}
        deltas[layer], scales[layer] = _low_rank(patch, adapter.name, spelled)
        modules[layer] = Module(layer, deltas[layer].shape, tuple(key for key in tensors if key in patch.loaded_keys))
    in_order = tuple(modules[layer] for layer in base.layers if layer in modules)
    return PlacedAdapter(in_order, deltas, scales, tuple(skipped), unread)


def to_state_dict(deltas: Mapping[str, LowRankDelta], scales: Mapping[str, float], base: HostBase) -> dict[str, Tensor]:
    """The deltas under the base's own names, as every loader of LoRA reads them: lora_up, lora_down and alpha.

    The scale alpha / rank of the original is kept: alpha follows the rank (method.md section 3, law 8).
    """
    tensors: dict[str, Tensor] = {}
    for layer, delta in deltas.items():
        written, shape = base.written[layer], base.layers[layer].weight.shape
        scale = scales[layer] or 1.0  # alpha = 0 leaves a delta of zeros, which any scale writes
        kernel = shape[2:]
        tensors[f"{written}.lora_up.weight"] = (delta.up / scale).reshape(-1, delta.rank, *(1 for _ in kernel))
        tensors[f"{written}.lora_down.weight"] = delta.down.reshape(delta.rank, *shape[1:]).contiguous()
        tensors[f"{written}.alpha"] = torch.tensor(scale * delta.rank)
    return tensors


def _by_module(
    tensors: Mapping[str, Tensor], key_map: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """The file's tensors by the module that they belong to, and the keys that belong to none, with the reason."""
    groups: dict[str, dict[str, Tensor]] = {}
    unread: dict[str, str] = {}
    for key, tensor in tensors.items():
        module = _module_of(key, key_map)
        if module is not None:
            groups.setdefault(module, {})[key] = tensor
        elif key.startswith(_TEXT_ENCODER_KEYS):
            unread[key] = "it belongs to a text encoder: connect the CLIP of both bases to transfer it"
        else:
            unread[key] = "the base has no layer of this name"
    return groups, unread


def _module_of(key: str, key_map: Mapping[str, Any]) -> str | None:
    """The longest name of the key map that the key begins with, ending where a suffix (`.alpha`, `_lora.up`) begins."""
    ends = [end for end in range(len(key)) if key[end] == "." or key.startswith("_lora.", end)]
    return next((key[:end] for end in reversed(ends) if key[:end] in key_map), None)


def _read_patch(tensors: dict[str, Tensor], spelled: str, target: Any) -> Any:
    """What the host makes of one module's tensors: an adapter object, a tuple such as ("diff", ...), or None."""
    return comfy.lora.load_lora(tensors, {spelled: target}, log_missing=False).get(target)


def _refusal(patch: Any, layer: str, base: HostBase, placed: Mapping[str, Module]) -> str | None:
    """Why a module cannot be transferred, or None."""
    if layer not in base.layers:
        return "it changes a vector, or a layer that the base's file does not hold"
    if layer in placed:
        return "the file names this layer twice; the other spelling was taken"
    if patch is None:
        return "the host finds no adapter in these keys"
    if not isinstance(patch, LoRAAdapter):
        kind = patch[0] if isinstance(patch, tuple) else patch.name
        return f"adapters of kind {kind} are not transferred yet"
    *_, dora_scale, reshape = patch.weights
    if dora_scale is not None or reshape is not None:
        return f"adapters of kind {'DoRA' if reshape is None else 'reshape'} are not transferred yet"
    return None


def _low_rank(patch: LoRAAdapter, adapter: str, spelled: str) -> tuple[LowRankDelta, float]:
    """The module's delta in float32 with alpha / rank inside, and that scale. A Tucker mid is contracted into down."""
    up, down, alpha, mid, *_ = patch.weights
    scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
    up, down = up.to(torch.float32).flatten(1), down.to(torch.float32)
    if mid is not None:
        down = torch.einsum("ij...,jc->ic...", mid.to(torch.float32), down.flatten(1))
    try:
        return LowRankDelta(up * scale, down.flatten(1)), scale
    except ShapeMismatch as error:
        raise UnsupportedAdapter(
            f"LoRA {adapter}, module {spelled}: {error} The file is damaged: fetch it again."
        ) from error
