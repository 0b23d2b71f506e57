"""A trained model in memory as the engine sees it: what the benchmarks transfer LoRAs between."""

import re
from collections.abc import Mapping

from torch import Tensor

from core.memory_base import MemoryBase

# One step of a model's depth, as nodes/host/base/names takes it from ComfyUI's names.
_BLOCK = re.compile(r"^(?:.*\.)?(?:\w*blocks?)\.\d+(?:\.\d+)*(?=\.)")


def kept_base(name: str, weights: Mapping[str, Tensor]) -> MemoryBase:
    """A base in memory whose layers are named as ComfyUI names them."""
    return MemoryBase(name, weights, _block_and_role)


def _block_and_role(name: str) -> tuple[str, str]:
    block = _BLOCK.match(name)
    return (block[0], name[len(block[0]) + 1 :]) if block else ("", name)
