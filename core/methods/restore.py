"""Undo the base's drift on the inputs that the LoRA reads."""

from ..delta import LowRankDelta
from .method import LayerPairBases, Method, Projected


def restore(delta: LowRankDelta, bases: LayerPairBases) -> Projected:
    """dW_t = dW_s + (W_s - W_t) V V^T, V an orthonormal basis of dW_s's rows (docs/method.md, section 3). Rank kept.

    On those inputs the target with its delta acts as the source with its own. Affine in dW_s, not linear: the drift
    is added whole however weak the LoRA is. No singular value decomposition of a base weight is needed.
    """
    drift = bases.drift_where_the_delta_acts().read
    return Projected(LowRankDelta(delta.up @ (delta.down @ drift.down.mT) + drift.up, drift.down))


RESTORE = Method(
    name="restore",
    function=restore,
    summary="The delta plus what the base's drift took from the inputs that the LoRA reads: better than the copy where "
    "that is little beside the LoRA, worse where it is much (the verdict says which); needs no decomposition.",
    source="derived; docs/method.md, section 3",
    keeps_whole_delta=True,
    needs_drift=True,
    drift_undone=lambda ratio: 1.0,
)
