"""LoRA-X: keeps the part of the delta inside the target's leading subspaces."""

from ..delta import LowRankDelta
from ..linalg import project
from .method import LayerPairBases, Method, Projected


def lora_x(delta: LowRankDelta, bases: LayerPairBases) -> Projected:
    """dW_t = P_t dW_s Q_t (LoRA-X, arXiv 2501.16559, Eq. 3). Rank r in, rank r out."""
    _, target = bases.source_and_target_subspaces()
    return Projected(LowRankDelta(project(target.left, delta.up), project(target.right, delta.down.mT).mT))


LORA_X = Method(
    name="lora_x",
    function=lora_x,
    summary="LoRA-X as published: keeps only the part inside the target's leading subspaces.",
    source="LoRA-X, ICLR 2025, arXiv 2501.16559, Eq. 3",
    keeps_whole_delta=False,
    needs_subspaces=True,
)
