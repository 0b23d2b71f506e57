"""Makes bases from trained models in memory."""

import re
from collections.abc import Mapping

from torch import Tensor

from core.memory_base import MemoryBase

# A block of a model, by the same rule as nodes/host/base/names applies to ComfyUI's names.
_BLOCK = re.compile(r"^(?:.*\.)?(?:\w*blocks?)\.\d+(?:\.\d+)*(?=\.)")


def make_base(name: str, weights: Mapping[str, Tensor]) -> MemoryBase:
    """A base in memory whose layers are named as ComfyUI names them."""
    return MemoryBase(name, weights, _block_and_role)


def _block_and_role(name: str) -> tuple[str, str]:
    block = _BLOCK.match(name)
    return (block[0], name[len(block[0]) + 1 :]) if block else ("", name)
