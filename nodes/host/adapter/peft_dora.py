"""PEFT's DoRA as a patch on a loaded model. ComfyUI itself has no such patch."""

from collections.abc import Callable
from typing import Any

import torch
from comfy.weight_adapter import LoRAAdapter
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor


class PeftDora(WeightAdapterBase):
    """W' = m (W + dW) / ||W + dW||, with the norm of each output's row (arXiv 2402.09353, Eq. 5), at strength 1. Other
    strengths go that share of the way from W to W'. weights: up, down, alpha / rank, and m (out)."""

    name = "peft_dora"

    def __init__(self, loaded_keys: set[str], weights: Any) -> None:
        """The signature of ComfyUI's adapters, which ComfyUI relies on to copy them to a device."""
        self.loaded_keys, self.weights = loaded_keys, weights

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Callable[[Tensor], Tensor],
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> Tensor:
        """Change the weight in place and return it. `function` brings the file's rows into the model's order."""
        up, down, scale, magnitude = (
            value.to(weight.device, intermediate_dtype) if isinstance(value, Tensor) else value
            for value in self.weights
        )
        rows = weight.flatten(1).to(intermediate_dtype)
        changed = rows + function(scale * (up.flatten(1) @ down.flatten(1)))
        norms = torch.linalg.vector_norm(changed, dim=1, keepdim=True).clamp_min(torch.finfo(changed.dtype).tiny)
        change = changed * (function(magnitude.reshape(-1, 1)) / norms) - rows
        weight += (strength * change).reshape(weight.shape).to(weight.dtype)
        return weight


def add_norms(lora: LoRAAdapter, magnitude: Tensor) -> PeftDora:
    """The DoRA of a LoRA and its magnitudes (out)."""
    up, down, alpha, *_ = lora.weights
    return PeftDora(lora.loaded_keys, (up, down, 1.0 if alpha is None else alpha / down.shape[0], magnitude))
