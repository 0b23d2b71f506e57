"""Patches of ComfyUI on layers whose rows a file has in another order than the model (scale and shift swapped).

ComfyUI reorders the rows of a change alone. That is not enough where the change depends on the weight, or takes its
place.
"""

from collections.abc import Callable
from typing import Any

import torch
from comfy.weight_adapter import LoHaAdapter, LoKrAdapter, LoRAAdapter
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor

from .module import DORA


class InFileOrder(WeightAdapterBase):
    """A patch of another kind, computed on the weight with its rows in the order of the file. weights: that patch."""

    name = "in_file_order"

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
    """The patch with which ComfyUI, given the same function, does to a layer what the file's trainer did to it; the
    same patch where it does so already."""
    if isinstance(patch, tuple):
        kind, (values, *rest) = patch
        return (kind, (to_model_order(values), *rest)) if kind == "set" else patch
    return InFileOrder(patch.loaded_keys, (patch,)) if _depends_on_order(patch) else patch


def _depends_on_order(patch: Any) -> bool:
    """Whether a change needs to know which row of the weight it changes; norms of columns are the same in any order."""
    if type(patch) not in _KINDS_WITH_FACTORS:
        return True
    norms = patch.weights[DORA[patch.name]]
    return norms is not None and norms.shape[0] > 1


_KINDS_WITH_FACTORS = (LoRAAdapter, LoHaAdapter, LoKrAdapter)


def _keep(rows: Tensor) -> Tensor:
    return rows
