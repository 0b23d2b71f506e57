"""A trained model in memory as the engine sees it: what the benchmarks carry LoRAs between."""

import re
from collections.abc import Mapping

from torch import Tensor

from core.layers import Layer, WeightRef

# One step of a model's depth, as nodes/host/base/names takes it from ComfyUI's names.
_BLOCK = re.compile(r"^(?:.*\.)?(?:\w*blocks?)\.\d+(?:\.\d+)*(?=\.)")


class KeptBase:
    """A base in memory."""

    notes = ()

    def __init__(self, name: str, weights: Mapping[str, Tensor]) -> None:
        self.name = self.fingerprint = name
        self.weights = weights
        self.layers: Mapping[str, Layer] = {
            key: _layer(key, tuple(value.shape)) for key, value in weights.items() if value.ndim > 1
        }

    def read(self, layer: Layer) -> Tensor:
        return self.weights[layer.name].flatten(1).clone()


def _layer(key: str, shape: tuple[int, ...]) -> Layer:
    found = _BLOCK.match(key)
    block, role = (found[0], key[len(found[0]) + 1 :]) if found else ("", key)
    return Layer(key, role, block, WeightRef(key, shape, "F32"))
