"""Bases in memory that count reads."""

from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lora_transfer.core.layers import Layer
from lora_transfer.core.memory_base import MemoryBase


def split_at_last_dot(name: str) -> tuple[str, str]:
    """Split a layer's name into block and role."""
    block, _, role = name.rpartition(".")
    return block, role


class CountingBase(MemoryBase):
    """Weights by layer name; a name's part before the last dot is its block. Counts reads."""

    def __init__(
        self,
        name: str,
        weights: Mapping[str, Tensor],
        file: str | None = None,
        block_and_role: Callable[[str], tuple[str, str]] = split_at_last_dot,
    ) -> None:
        super().__init__(name, weights, block_and_role, file=file, notes=("made in a test",))
        self.fingerprint = f"test:{name}"
        self.reads: Counter[str] = Counter()

    def read(self, layer: Layer) -> Tensor:
        self.reads[layer.name] += 1
        return super().read(layer)


def related_bases(drift: float = 0.2, places: bool = False) -> tuple[CountingBase, CountingBase]:
    """Two bases of four layers: square, tall, a convolution, and one that only the source has; with `places`, as if
    they were in files."""
    generator = torch.Generator().manual_seed(7)
    shapes = {"a.0.q": (32, 32), "a.0.up": (48, 20), "a.1.conv": (16, 6, 3, 3), "b.gone": (8, 12)}
    source = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    noise = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    target = {name: source[name] + drift * noise[name] for name in source if name != "b.gone"}
    files = ("source.file", "target.file") if places else (None, None)
    return CountingBase("source", source, files[0]), CountingBase("target", target, files[1])
