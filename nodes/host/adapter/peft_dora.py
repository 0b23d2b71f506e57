"""DoRA of PEFT's kind as a patch of ComfyUI, which has none."""

from collections.abc import Callable
from typing import Any

import torch
from comfy.weight_adapter import LoRAAdapter
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor


class PeftDora(WeightAdapterBase):
    """W' = m (W + dW) / ||W + dW||, the norm over each output's row (arXiv 2402.09353, Eq. 5), at a strength of 1; at
    others that share of the way. weights: up, down, alpha / rank, and m (out)."""

    name = "peft_dora"

    def __init__(self, loaded_keys: set[str], weights: Any) -> None:
        """As every adapter of the host, which makes copies of one for tensors on a device."""
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
        """The weight, changed in place. `function` brings a file's rows into the model's order."""
        up, down, scale, magnitude = (
            one.to(weight.device, intermediate_dtype) if isinstance(one, Tensor) else one for one in self.weights
        )
        rows = weight.flatten(1).to(intermediate_dtype)
        moved = rows + function(scale * (up.flatten(1) @ down.flatten(1)))
        norms = torch.linalg.vector_norm(moved, dim=1, keepdim=True).clamp_min(torch.finfo(moved.dtype).tiny)
        change = moved * (function(magnitude.reshape(-1, 1)) / norms) - rows
        weight += (strength * change).reshape(weight.shape).to(weight.dtype)
        return weight


def add_norms(lora: LoRAAdapter, magnitude: Tensor) -> PeftDora:
    """The DoRA of a LoRA and its norms (out)."""
    up, down, alpha, *_ = lora.weights
    return PeftDora(lora.loaded_keys, (up, down, 1.0 if alpha is None else alpha / down.shape[0], magnitude))
