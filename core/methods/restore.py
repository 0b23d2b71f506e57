"""Undo the base's drift on the inputs that the LoRA reads."""

from ..delta import LowRankDelta
from .method import LayerPairBases, Method, Projected


def restore(delta: LowRankDelta, bases: LayerPairBases) -> Projected:
    """dW_t = dW_s + (W_s - W_t) V V^T, V an orthonormal basis of dW_s's rows (method.md section 3). Rank kept.

    On those inputs the target with its delta acts as the source with its own. Affine in dW_s, not linear: the drift
    is added whole however weak the LoRA is. No singular value decomposition of a base weight is needed.
    """
    source_weight, target_weight = bases.source_and_target_weights()
    reading = delta.row_basis()  # (n, q)
    up = delta.up @ (delta.down @ reading) + (source_weight - target_weight) @ reading
    return Projected(LowRankDelta(up, reading.mT.contiguous()))


RESTORE = Method(
    name="restore",
    function=restore,
    summary="The delta plus what the base's drift took from the inputs that the LoRA reads; needs no decomposition.",
    source="derived; method.md sections 3 and 6b",
    keeps_whole_delta=True,
    needs_weights=True,
)
