"""Small bases with the block structure of real ones, and children made from them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lora_transfer.core.delta import LowRankDelta
from lora_transfer.core.drift import compare_weights
from lora_transfer.core.methods import LayerPairBases, method_named
from tests.core.bases import CountingBase

Weights = dict[tuple[str, str], Tensor]  # (block, role) -> weight; a layer outside all blocks has the block ""

TRANSFORMER = {"attn1.to_q": (24, 24), "attn1.to_v": (24, 24), "attn2.to_k": (24, 20), "ff": (32, 24)}
RESNET = {"conv1": (24, 24, 3, 3), "emb": (24, 30), "conv2": (24, 24, 3, 3)}
SKIPPING = {"conv1": (24, 48, 3, 3), "emb": (24, 30), "conv2": (24, 24, 3, 3), "skip": (24, 48, 1, 1)}


class BlockBase(CountingBase):
    """A base in memory with explicit blocks and roles."""

    def __init__(self, name: str, weights: Weights) -> None:
        names = {".".join(filter(None, key)): key for key in weights}
        super().__init__(name, {name: weights[key] for name, key in names.items()}, block_and_role=names.__getitem__)


def weights_of(blocks: Mapping[str, Mapping[str, tuple[int, ...]]], seed: int = 0) -> Weights:
    """Noise for every layer, with the mean that real weights share, so that plain cosines of unrelated models are not
    zero."""
    generator = torch.Generator().manual_seed(seed)
    return {
        (block, role): torch.randn(*shape, generator=generator) + 0.3
        for block, roles in blocks.items()
        for role, shape in roles.items()
    }


def transformers(place: str, count: int) -> dict[str, Mapping[str, tuple[int, ...]]]:
    return {f"{place}.transformer_blocks.{index}": TRANSFORMER for index in range(count)}


def sdxl(depths: Sequence[int] = (4, 4, 4, 4)) -> dict[str, Mapping[str, tuple[int, ...]]]:
    """The order of SDXL's blocks: two levels down, a middle, one level up, each with its spatial transformer."""
    blocks: dict[str, Mapping[str, tuple[int, ...]]] = {"": {"conv_in": (24, 4, 3, 3), "time_embed": (30, 24)}}
    for place, depth in zip(
        ("input_blocks.1", "input_blocks.2", "middle_block", "output_blocks.0"), depths, strict=True
    ):
        blocks[f"{place}.0"] = SKIPPING if place.startswith("output") else RESNET
        blocks[f"{place}.1"] = {"proj_in": (24, 24), "proj_out": (24, 24)}
        blocks |= transformers(f"{place}.1", depth)
    return blocks


def child_of(parent: Weights, taken: Mapping[str, str], seed: int = 1, cosine: float = 1.0) -> Weights:
    """A model whose blocks are copies of the parent's (child block -> parent block), perturbed to a weight cosine."""
    generator = torch.Generator().manual_seed(seed)
    made: Weights = {}
    for block, origin in taken.items():
        for (name, role), weight in parent.items():
            if name == origin:
                made[block, role] = perturbed(weight, cosine, generator)
    return made


def perturbed(weight: Tensor, cosine: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(weight.shape, generator=generator)
    return cosine * weight + (1 - cosine**2) ** 0.5 * weight.norm() / noise.norm() * noise


def transfer_delta(method: str, delta: LowRankDelta, weights: tuple[Tensor, Tensor]) -> LowRankDelta:
    """Transfer a delta from one weight to another by copy or restore."""
    _, drift = compare_weights(*weights, delta)
    return method_named(method).function(delta, LayerPairBases(drift=drift)).delta
