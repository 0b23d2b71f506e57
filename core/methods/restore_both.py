"""Undoes the base's drift on the inputs that the LoRA reads and the outputs that it writes, weighted by its size."""

from ..delta import LowRankDelta
from .method import LayerPairBases, Method, Projected


def restore_both(delta: LowRankDelta, bases: LayerPairBases) -> Projected:
    """dW_t = [dW_s + w F]_r, F = E - (1 - U U^T) E (1 - V V^T), E = W_s - W_t: U and V are orthonormal bases of dW_s's
    columns and rows, [.]_r is the best approximation of its rank r. Keeps the rank.

    w = ||dW_s||^2 / (||dW_s||^2 + ||F||^2), a Wiener weight: a drift much larger than the LoRA would replace it.
    Chosen by benchmarks/quality. Not linear in dW_s. Needs no singular value decomposition of a base weight.
    """
    drift = bases.drift_where_the_delta_acts()
    reading = drift.read.down.mT  # (n, q)
    energy, drift_energy = delta.energy(), drift.energy()
    weight = energy / (energy + drift_energy) if energy > 0 else 0.0
    inside = LowRankDelta(delta.up @ (delta.down @ reading) + weight * drift.read.up, drift.read.down)
    return Projected(inside.plus(drift.written.scaled(weight)).truncated(delta.rank)[0])


RESTORE_BOTH = Method(
    name="restore_both",
    function=restore_both,
    summary="Adds a correction that undoes the base's drift on the inputs that the LoRA reads and the outputs that it "
    "writes; the larger that drift is next to the LoRA, the smaller the correction. Measured best, and needs no "
    "decomposition; targets with another depth or width get the copy.",
    source="derived; benchmarks/quality/RESULTS.md",
    keeps_whole_delta=True,
    needs_drift=True,
    same_build_only=True,
    drift_undone=lambda ratio: 1 / (1 + ratio**2),
)
