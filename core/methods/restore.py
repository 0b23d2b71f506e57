"""Undoes the base's drift on the inputs that the LoRA reads."""

from ..delta import LowRankDelta
from .method import LayerPairBases, Method, Projected


def restore(delta: LowRankDelta, bases: LayerPairBases) -> Projected:
    """dW_t = dW_s + (W_s - W_t) V V^T, V an orthonormal basis of dW_s's rows (docs/method.md, section 3). Keeps the
    rank.

    On those inputs the target with dW_t gives what the source with dW_s gives. Affine in dW_s, not linear: the whole
    drift is added however weak the LoRA is. Needs no singular value decomposition.
    """
    drift = bases.drift_where_the_delta_acts().read
    return Projected(LowRankDelta(delta.up @ (delta.down @ drift.down.mT) + drift.up, drift.down))


RESTORE = Method(
    name="restore",
    function=restore,
    summary="Adds a correction that undoes the base's drift on the inputs that the LoRA reads: better than the copy if "
    "that drift is small next to the LoRA, worse if it is large (the verdict says which). Needs no decomposition.",
    source="derived; docs/method.md, section 3",
    keeps_whole_delta=True,
    needs_drift=True,
    drift_undone=lambda ratio: 1.0,
)
