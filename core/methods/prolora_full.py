"""ProLoRA with the two cross blocks that its Eq. 2 drops."""

from torch import Tensor

from ..delta import LowRankDelta
from ..linalg import project, reject, split
from .method import LayerPairBases, Method, Projected


def carry(source_basis: Tensor, target_basis: Tensor, x: Tensor) -> Tensor:
    """M x with M = P_t P_s + P'_t P'_s (m, m), for bases (m, k) and x (m, c)."""
    inside, outside = split(source_basis, x)
    return project(target_basis, inside) + reject(target_basis, outside)


def prolora_full(delta: LowRankDelta, bases: LayerPairBases) -> Projected:
    """dW_t = M_L dW_s M_R, M_L = P_t P_s + P'_t P'_s, M_R = Q_s Q_t + Q'_s Q'_t (docs/method.md, section 3).

    The rank is kept.
    """
    source, target = bases.source_and_target_subspaces()
    return Projected(
        LowRankDelta(
            carry(source.left, target.left, delta.up),
            carry(source.right, target.right, delta.down.mT).mT,
        )
    )


PROLORA_FULL = Method(
    name="prolora_full",
    function=prolora_full,
    summary="ProLoRA with its cross blocks kept: equal bases give the LoRA back unchanged.",
    source="derived from ProLoRA, arXiv 2506.04244, Eq. 2",
    keeps_whole_delta=True,
    needs_subspaces=True,
)
