"""ProLoRA as published: projects the subspace part and the null-space part into those of the target."""

from ..delta import LowRankDelta
from ..linalg import project, reject, split
from .method import LayerPairBases, Method, Projected


def prolora(delta: LowRankDelta, bases: LayerPairBases) -> Projected:
    """dW_t = P_t P_s dW_s Q_s Q_t + P'_t P'_s dW_s Q'_s Q'_t (ProLoRA, arXiv 2506.04244, Eq. 3). Rank r in, 2r out.

    The two cross blocks P dW Q' and P' dW Q are lost even between equal models, as in the paper.
    """
    source, target = bases.source_and_target_subspaces()
    up_inside, up_outside = split(source.left, delta.up)
    reading_inside, reading_outside = split(source.right, delta.down.mT)
    inside = LowRankDelta(project(target.left, up_inside), project(target.right, reading_inside).mT)
    outside = LowRankDelta(reject(target.left, up_outside), reject(target.right, reading_outside).mT)
    return Projected(inside.plus(outside))


PROLORA = Method(
    name="prolora",
    function=prolora,
    summary="ProLoRA as published: subspace part plus null-space part; doubles the rank, drops the cross blocks.",
    source="ProLoRA, ICML 2025, arXiv 2506.04244, Eq. 3",
    keeps_whole_delta=False,
    needs_subspaces=True,
)
