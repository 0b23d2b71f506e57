"""ProLoRA with the two cross blocks that its Eq. 2 leaves out."""

from torch import Tensor

from ..delta import LowRankDelta
from ..linalg import project, reject, split
from .method import LayerPairBases, Method, Projected


def map_between_subspaces(source_basis: Tensor, target_basis: Tensor, x: Tensor) -> Tensor:
    """M x (m, c) with M = P_t P_s + P'_t P'_s (m, m), for orthonormal bases (m, k) and x (m, c)."""
    inside, outside = split(source_basis, x)
    return project(target_basis, inside) + reject(target_basis, outside)


def prolora_full(delta: LowRankDelta, bases: LayerPairBases) -> Projected:
    """dW_t = M_L dW_s M_R, M_L = P_t P_s + P'_t P'_s, M_R = Q_s Q_t + Q'_s Q'_t (docs/method.md, section 3).

    Rank r in, rank r out.
    """
    source, target = bases.source_and_target_subspaces()
    return Projected(
        LowRankDelta(
            map_between_subspaces(source.left, target.left, delta.up),
            map_between_subspaces(source.right, target.right, delta.down.mT).mT,
        )
    )


PROLORA_FULL = Method(
    name="prolora_full",
    function=prolora_full,
    summary="ProLoRA with its cross blocks: returns the LoRA unchanged if the bases are equal.",
    source="derived from ProLoRA, arXiv 2506.04244, Eq. 2",
    keeps_whole_delta=True,
    needs_subspaces=True,
)
