"""A base in memory: the engine's Base protocol over a dict of weights, which counts what is read."""

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from lora_transfer.core.layers import Layer, WeightRef


class MemoryBase:
    """Weights by layer name; a name's part before the last dot is its block."""

    def __init__(self, name: str, weights: Mapping[str, Tensor], file: str | None = None) -> None:
        self.name = name
        self.fingerprint = f"test:{name}"
        self.notes = ("made in a test",)
        self.reads: Counter[str] = Counter()
        self._weights = weights
        self.layers = {
            key: Layer(
                key,
                key.rpartition(".")[2],
                key.rpartition(".")[0],
                WeightRef(key, tuple(value.shape), "F32", file=file),
            )
            for key, value in weights.items()
        }

    def read(self, layer: Layer) -> Tensor:
        self.reads[layer.name] += 1
        return self._weights[layer.name].flatten(1).float()


def related_bases(drift: float = 0.2, places: bool = False) -> tuple[MemoryBase, MemoryBase]:
    """Two bases of four layers: square, tall, a convolution, and one that only the source has; with `places`, as if
    they lay in files."""
    generator = torch.Generator().manual_seed(7)
    shapes = {"a.0.q": (32, 32), "a.0.up": (48, 20), "a.1.conv": (16, 6, 3, 3), "b.gone": (8, 12)}
    source = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    noise = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    target = {name: source[name] + drift * noise[name] for name in source if name != "b.gone"}
    files = ("source.file", "target.file") if places else (None, None)
    return MemoryBase("source", source, files[0]), MemoryBase("target", target, files[1])
