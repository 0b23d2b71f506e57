"""T-LoRA files of LyCORIS 4.1. ComfyUI has no such adapter."""

from collections.abc import Callable, Mapping
from typing import Any

from comfy.weight_adapter import LoRAAdapter
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor

from ....core.delta import LowRankDelta
from ....core.errors import UnsupportedAdapter
from ....core.layers import Layer
from ....core.tlora import find_start

_P, _Q, _VALUES = _ENDS = (".p_layer.weight", ".q_layer.weight", ".lambda_layer")

NOTE = (
    "it is a T-LoRA: in its training the higher ranks acted at low noise only, and in a LoRA all of them act at all "
    "times. If pictures look burnt, lower the strength"
)


class TLora(WeightAdapterBase):
    """dW = s (P diag(l) Q - a part of W). weights: p (m, r), q (r, n), l (r) and alpha, as in the file.

    It only passes through the reader: `as_lora` makes ComfyUI's patch of it, because ComfyUI would give it a weight
    that other patches have changed."""

    name = "tlora"

    def __init__(self, loaded_keys: set[str], weights: Any) -> None:
        self.loaded_keys, self.weights = loaded_keys, weights


def load_tlora(spelled: str, tensors: Mapping[str, Tensor]) -> TLora | None:
    """The T-LoRA among the tensors of a module, or None. UnsupportedAdapter if it is incomplete."""
    keys = [spelled + end for end in _ENDS]
    if not tensors.keys() & set(keys):
        return None
    if missing := next((key for key in keys if key not in tensors), None):
        raise UnsupportedAdapter(f"it is incomplete: {missing} is missing")
    alpha = tensors.get(f"{spelled}.alpha")
    return TLora(set(), (*(tensors[key] for key in keys), None if alpha is None else float(alpha)))


def has_tlora(keys: tuple[str, ...]) -> bool:
    """Whether a module with these keys of the file is a T-LoRA."""
    return any(key.endswith(_VALUES) for key in keys)


def scale_of(patch: TLora) -> float:
    """alpha / rank."""
    values, alpha = patch.weights[2:]
    return 1.0 if alpha is None else float(alpha) / values.numel()


def check_shapes(patch: TLora, layer: Layer) -> None:
    """UnsupportedAdapter if the factors do not fit the layer, or if it is a convolution with a kernel."""
    p, q, values, _ = patch.weights
    rows, columns = layer.weight.matrix_shape
    rank = values.numel()
    if columns != layer.weight.shape[1]:
        raise UnsupportedAdapter(
            f"it is a T-LoRA of a convolution of {list(layer.weight.shape)}: LyCORIS gives its factors no kernel, so "
            "that such a layer cannot be trained, and its change is not defined"
        )
    shapes = [tuple(tensor.shape) for tensor in (p, q)]
    kernel = (1,) * (len(layer.weight.shape) - 2)
    if shapes != [(rows, rank, *kernel), (rank, columns, *kernel)] or rank == 0:
        stored = " and ".join(str(list(shape)) for shape in (*shapes, tuple(values.shape)))
        raise UnsupportedAdapter(
            f"expected its tlora to fit the layer's {list(layer.weight.shape)}, found tensors {stored}"
        )


def tlora_delta(patch: TLora, layer: Layer, source_weight: Callable[[], Tensor]) -> LowRankDelta:
    """The delta (m, n), of rank 2 r. source_weight reads the weight (m, n) before the training.

    UnsupportedAdapter if the training did not start from this weight."""
    p, q, values, _ = patch.weights
    trained = LowRankDelta(p.flatten(1).float() * values.flatten().float(), q.flatten(1).float())
    start = find_start(trained, source_weight())
    if start is None:
        raise UnsupportedAdapter(
            f"Layer {layer.name}: expected the factors of its T-LoRA to be near the base's own singular directions, "
            "where LyCORIS starts to train, found others. Choose the base that it was trained on. If this is that "
            "base, its training started from random directions, which the file does not hold, so that it cannot be read"
        )
    return trained.minus(start).scaled(scale_of(patch))


def as_lora(patch: TLora, layer: Layer, source_weight: Callable[[], Tensor]) -> LoRAAdapter:
    """The same change as ComfyUI's patch."""
    delta = tlora_delta(patch, layer, source_weight)
    return LoRAAdapter(set(), (delta.up, delta.down, None, None, None, None))
