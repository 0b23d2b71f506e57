"""Patches on layers whose rows have another order in the file than in the model (scale and shift swapped).

ComfyUI only reorders the rows of the change. That is not enough if the change depends on the weight or replaces it.
"""

from collections.abc import Callable
from typing import Any

import torch
from comfy.weight_adapter import LoHaAdapter, LoKrAdapter, LoRAAdapter
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor

from .positions import dora_scale_of


class InFileOrder(WeightAdapterBase):
    """Computes another patch on the weight with its rows in the order of the file. weights: that patch."""

    name = "in_file_order"

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
        file_rows = function(torch.arange(len(weight), device=weight.device))
        patch: Any = self.weights[0]
        changed = patch.calculate_weight(
            weight[file_rows.argsort()],
            key,
            strength,
            strength_model,
            offset,
            _keep,
            intermediate_dtype,
            original_weight,
        )
        weight[:] = changed[file_rows]
        return weight


def in_file_order(patch: Any, to_model_order: Callable[[Tensor], Tensor]) -> Any:
    """The patch that makes ComfyUI, with the same function, change a layer as the file's trainer did; the same patch if
    it already does."""
    if isinstance(patch, tuple):
        kind, (values, *rest) = patch
        return (kind, (to_model_order(values), *rest)) if kind == "set" else patch
    return InFileOrder(patch.loaded_keys, (patch,)) if _depends_on_order(patch) else patch


def _depends_on_order(patch: Any) -> bool:
    """Whether a change depends on the order of the weight's rows. Norms of columns are the same in any order."""
    if type(patch) not in _KINDS_WITH_FACTORS:
        return True
    norms = dora_scale_of(patch)
    return norms is not None and norms.shape[0] > 1


_KINDS_WITH_FACTORS = (LoRAAdapter, LoHaAdapter, LoKrAdapter)


def _keep(rows: Tensor) -> Tensor:
    return rows
