"""The same model in diffusers' layout, by ComfyUI's own maps of names."""

from collections.abc import Callable, Mapping
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from lora_transfer.core.files import TensorFile, TensorHeader
from lora_transfer.nodes.host.base.names import parse_target, row_order
from tests.host.families import TRANSFORMERS, UNETS

_TRANSFORMER_MAPS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "Flux dev": comfy.utils.flux_to_diffusers,
    "Flux schnell": comfy.utils.flux_to_diffusers,
    "SD3 medium": comfy.utils.mmdit_to_diffusers,
    "AuraFlow": comfy.utils.auraflow_to_diffusers,
    "PixArt Sigma": comfy.utils.pixart_to_diffusers,
    "Z-Image": comfy.utils.z_image_to_diffusers,
}
TWO_LAYOUTS = (*UNETS, *_TRANSFORMER_MAPS)

# Names that ComfyUI's maps hold for LoRAs of other models or tools; files of these families have others.
_NOT_IN_FILES = ("linear_in", "linear_out", "to_qkv_mlp_proj", "class_embedding")


def diffusers_tensors(native: Mapping[str, Tensor], family: str, settings: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a model as diffusers stores them; those that it has no name for are left out."""
    names = comfy.utils.unet_to_diffusers(settings) if family in UNETS else _TRANSFORMER_MAPS[family](settings)
    tensors: dict[str, Tensor] = {}
    for name, target in names.items():
        key, rows, _ = parse_target(target)
        if key not in native or any(part in name for part in _NOT_IN_FILES) or _is_flux_2(name):
            continue
        part = native[key] if rows is None else native[key][rows.as_slice]
        order = row_order(target)  # a swap of halves, which is its own inverse
        tensors[name] = (part if order is None else order(part)).contiguous().clone()
    return tensors


def diffusers_header(native: TensorFile, family: str) -> TensorFile:
    """The header of a full-size model in diffusers' layout."""
    settings = UNETS[family] if family in UNETS else _with_defaults(family)
    prefix = "model.diffusion_model."
    meta = {key.removeprefix(prefix): torch.empty(one.shape, device="meta") for key, one in native.tensors.items()}
    tensors = diffusers_tensors(meta, family, settings)
    return TensorFile(native.path, {key: TensorHeader(tuple(one.shape), "F16") for key, one in tensors.items()}, {})


def _with_defaults(family: str) -> dict[str, Any]:
    """AuraFlow's class has the published sizes as its defaults."""
    return {"n_double_layers": 4, "n_layers": 36, **TRANSFORMERS[family][2]}


def _is_flux_2(name: str) -> bool:
    return name.startswith("single_transformer_blocks.") and name.endswith(".attn.to_out.weight")
