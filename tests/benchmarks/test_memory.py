"""The counter behind the figures of benchmarks/refine/memory.py, on a layer whose figures are known."""

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from lora_transfer.benchmarks.refine.memory import (
    BF16,
    META,
    RANK,
    StorageCounter,
    add_factors,
    checkpoint,
    storages_of,
)

ROWS, WIDE, NARROW = 5, 8, 6
INPUT, INNER, UP = 2 * ROWS * WIDE, 2 * ROWS * RANK, 2 * NARROW * RANK  # bytes in bfloat16


class TwoLayers(nn.Module):
    """Two layers that read the same input; their outputs are added."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList(nn.Linear(WIDE, NARROW, dtype=BF16, device=META) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(layer(x) for layer in self.transformer_blocks)  # pyright: ignore[reportReturnType]


def count_bytes(*, checkpoints: bool) -> int:
    model, inside = TwoLayers(), [0]
    counter = StorageCounter(storages_of(model, add_factors(model)))
    if checkpoints:
        checkpoint(list(model.transformer_blocks), counter, inside)
    with saved_tensors_hooks(counter.add, lambda packed: packed):
        model(torch.empty(ROWS, WIDE, dtype=BF16, device=META))
    return counter.bytes() + max(inside)


def test_what_both_layers_read_is_counted_once_and_no_weight_is() -> None:
    assert count_bytes(checkpoints=False) == INPUT + 2 * (INNER + UP)


def test_checkpoints_keep_what_blocks_read_and_one_block_at_a_time() -> None:
    assert count_bytes(checkpoints=True) == INPUT + INNER + UP
