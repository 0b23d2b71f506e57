"""The counter behind the figures of benchmarks/refine/memory.py, on a layer whose figures are known."""

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from lora_transfer.benchmarks.refine.memory import BF16, META, RANK, Kept, adapted, checkpointed, storages_of

ROWS, WIDE, NARROW = 5, 8, 6
INPUT, INNER, UP = 2 * ROWS * WIDE, 2 * ROWS * RANK, 2 * NARROW * RANK  # bytes in bfloat16


class TwoLayers(nn.Module):
    """Two layers that read the same input, and the bare sum of what they make of it."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList(nn.Linear(WIDE, NARROW, dtype=BF16, device=META) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(layer(x) for layer in self.transformer_blocks)  # pyright: ignore[reportReturnType]


def counted(*, apart: bool) -> int:
    model, inside = TwoLayers(), [0]
    kept = Kept(storages_of(model, adapted(model)))
    if apart:
        checkpointed(list(model.transformer_blocks), kept, inside)
    with saved_tensors_hooks(kept.add, lambda packed: packed):
        model(torch.empty(ROWS, WIDE, dtype=BF16, device=META))
    return kept.bytes() + max(inside)


def test_what_both_layers_read_is_counted_once_and_no_weight_is() -> None:
    assert counted(apart=False) == INPUT + 2 * (INNER + UP)


def test_checkpoints_keep_what_blocks_read_and_one_block_at_a_time() -> None:
    assert counted(apart=True) == INPUT + INNER + UP
