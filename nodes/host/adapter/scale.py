"""Puts the scale from a file's metadata into ComfyUI's patches, which only know the scale from an alpha tensor."""

from typing import Any

from comfy.weight_adapter import LoHaAdapter, LoKrAdapter, LoRAAdapter
from torch import Tensor

from ....core.errors import UnsupportedAdapter
from ....core.layers import Layer
from .peft import PeftSettings
from .positions import ALPHA, DOWN, MID, W1_B, W2_B, dora_scale_of


def apply_scale(patch: Any, module: str, settings: PeftSettings) -> Any:
    """The patch with alpha = rank times the metadata's scale, if it has no alpha of its own; the same patch if that
    changes nothing, and for other kinds.

    module: its name in the file. UnsupportedAdapter if the metadata are not understood."""
    if not isinstance(patch, LoRAAdapter | LoHaAdapter | LoKrAdapter) or patch.weights[ALPHA] is not None:
        return patch
    ranked = _ranked(patch)
    if ranked is not None and ranked.ndim == 0:
        return patch
    rank = None if ranked is None else ranked.shape[0]
    scale = settings.scale(module, rank)
    if scale == 1:
        return patch
    weights: list[Any] = list(patch.weights)
    if rank is not None:
        weights[ALPHA] = rank * scale
    elif weights[0] is not None:  # a LoKr of two full matrices, for which ComfyUI has no alpha
        weights[0] = weights[0].float() * scale
    return type(patch)(patch.loaded_keys, tuple(weights))


def check_settings(patch: Any, magnitude: Tensor | None, module: str, settings: PeftSettings) -> None:
    """UnsupportedAdapter if the file's metadata show that a LoRA's factors alone are not its change: training began by
    changing the base, or the norms of DoRA are missing, are there twice, or come with a Tucker core, which PEFT does
    not have."""
    if not isinstance(patch, LoRAAdapter):
        return
    settings.check_start(module)
    norms_of_host, mid = dora_scale_of(patch), patch.weights[MID]
    if magnitude is None and norms_of_host is None and settings.says_dora(module):
        raise UnsupportedAdapter("its norms (lora_magnitude_vector) are missing: the file's metadata say use_dora")
    if magnitude is not None and norms_of_host is not None:
        raise UnsupportedAdapter("it has norms of DoRA twice, as dora_scale and as lora_magnitude_vector")
    if magnitude is not None and mid is not None:
        raise UnsupportedAdapter("it has norms of PEFT's DoRA together with lora_mid, which PEFT does not have")


def check_norms(magnitude: Tensor, key: str, layer: Layer) -> None:
    """UnsupportedAdapter if the key does not have a norm for each of the layer's outputs."""
    if magnitude.numel() != layer.weight.shape[0]:
        raise UnsupportedAdapter(f"its {key} has {magnitude.numel()} values, the layer {layer.weight.shape[0]} outputs")


def _ranked(patch: Any) -> Tensor | None:
    """The factor whose first dimension is the rank by which alpha is divided."""
    if isinstance(patch, LoKrAdapter):
        return next((factor for factor in (patch.weights[W2_B], patch.weights[W1_B]) if factor is not None), None)
    return patch.weights[DOWN]
