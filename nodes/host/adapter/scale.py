"""The scale that a file's metadata give, put into ComfyUI's patches, which know that of an alpha tensor alone."""

from typing import Any

from comfy.weight_adapter import LoHaAdapter, LoKrAdapter, LoRAAdapter
from torch import Tensor

from ....core.errors import UnsupportedAdapter
from ....core.layers import Layer
from .module import DORA
from .peft import PeftSettings

_ALPHA = 2  # where the host keeps alpha in the weights of LoRA, LoHa and LoKr


def apply_scale(patch: Any, module: str, settings: PeftSettings) -> Any:
    """The patch with alpha = rank times the metadata's scale, if it has no alpha of its own; other kinds as they are.

    module: its name in the file. UnsupportedAdapter where the metadata cannot be understood."""
    if not isinstance(patch, LoRAAdapter | LoHaAdapter | LoKrAdapter) or patch.weights[_ALPHA] is not None:
        return patch
    weights: list[Any] = list(patch.weights)
    ranked = _ranked(patch)
    if ranked is None:  # a LoKr of two full matrices, for which the host has no alpha
        scale = settings.scale(module, None)
        weights[0] = weights[0] if scale == 1 or weights[0] is None else weights[0].float() * scale
    elif ranked.ndim > 0:
        rank = ranked.shape[0]
        weights[_ALPHA] = rank * settings.scale(module, rank)
    return type(patch)(patch.loaded_keys, tuple(weights))


def check_dora(patch: Any, magnitude: Tensor | None, module: str, settings: PeftSettings) -> None:
    """UnsupportedAdapter where a LoRA's norms cannot be those of DoRA: they are missing though the metadata ask for
    them, they are there twice, or they stand beside a Tucker core, which PEFT does not know."""
    if not isinstance(patch, LoRAAdapter):
        return
    norms_of_host, mid = patch.weights[DORA["lora"]], patch.weights[3]
    if magnitude is None and norms_of_host is None and settings.says_dora(module):
        raise UnsupportedAdapter("its norms (lora_magnitude_vector) are missing, for the file's metadata say use_dora")
    if magnitude is not None and norms_of_host is not None:
        raise UnsupportedAdapter("it has norms of DoRA twice, as dora_scale and as lora_magnitude_vector")
    if magnitude is not None and mid is not None:
        raise UnsupportedAdapter("it has norms of PEFT's DoRA beside lora_mid, which PEFT does not know")


def check_norms(magnitude: Tensor, key: str, layer: Layer) -> None:
    """UnsupportedAdapter where a layer does not have as many outputs as the key has norms."""
    if magnitude.numel() != layer.weight.shape[0]:
        raise UnsupportedAdapter(f"its {key} has {magnitude.numel()} values, the layer {layer.weight.shape[0]} outputs")


def _ranked(patch: Any) -> Tensor | None:
    """The factor whose first dimension is the rank by which alpha is divided."""
    if isinstance(patch, LoKrAdapter):
        return next((one for one in (patch.weights[6], patch.weights[4]) if one is not None), None)
    return patch.weights[1]
