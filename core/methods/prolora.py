"""ProLoRA as published: the subspace part and the null-space part, each projected into the target."""

from ..delta import LowRankDelta
from ..linalg import project, reject
from .method import LayerPairBases, Method, Projected


def prolora(delta: LowRankDelta, bases: LayerPairBases) -> Projected:
    """dW_t = P_t P_s dW_s Q_s Q_t + P'_t P'_s dW_s Q'_s Q'_t (ProLoRA, arXiv 2506.04244, Eq. 3). Rank r in, 2r out.

    The two cross blocks P dW Q' and P' dW Q are lost, even between equal models: so it is in the paper.
    """
    source, target = bases.source_and_target_subspaces()
    reading = delta.down.mT
    inside = LowRankDelta(
        project(target.left, project(source.left, delta.up)),
        project(target.right, project(source.right, reading)).mT,
    )
    outside = LowRankDelta(
        reject(target.left, reject(source.left, delta.up)),
        reject(target.right, reject(source.right, reading)).mT,
    )
    return Projected(inside.plus(outside))


PROLORA = Method(
    name="prolora",
    function=prolora,
    summary="ProLoRA as published: subspace part plus null-space part; doubles the rank, drops the cross blocks.",
    source="ProLoRA, ICML 2025, arXiv 2506.04244, Eq. 3",
    keeps_whole_delta=False,
    needs_subspaces=True,
)
