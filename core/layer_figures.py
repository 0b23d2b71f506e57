"""Describes one transferred layer by figures, computed from the factors of its delta and of the result."""

from .delta import LowRankDelta
from .drift import Drift
from .linalg import SAME_DELTA, frobenius
from .plan import PlannedPair
from .reports.layer import LayerReport
from .subspace import Subspace


def block_energies(delta: LowRankDelta, source: Subspace) -> tuple[float, float, float, float]:
    """Shares of ||dW||^2 in P dW Q, P dW Q', P' dW Q and P' dW Q' of the source's subspaces; all 0 for a zero delta."""
    total = delta.energy()
    # The part inside a subspace is computed from its coordinates there; the part outside is the rest.
    up_inside, down_inside = source.left.mT @ delta.up, delta.down @ source.right
    ups = [(part := up_inside.mT @ up_inside), delta.up.mT @ delta.up - part]
    downs = [(part := down_inside @ down_inside.mT), delta.down @ delta.down.mT - part]
    energies = [max(0.0, float((up * down).sum())) for up in ups for down in downs]
    shares = [energy / total if total > 0 else 0.0 for energy in energies]
    return shares[0], shares[1], shares[2], shares[3]


def describe_layer(
    planned: PlannedPair,
    delta: LowRankDelta,
    result: LowRankDelta,
    *,
    energy_lost: float = 0.0,
    undefined_directions: int = 0,
    block_energies: tuple[float, float, float, float] | None = None,
    drift: Drift | None = None,
) -> LayerReport:
    """The report on one transferred layer. Its figures are computed from the factors of the delta and of the result."""
    source_norm = delta.energy() ** 0.5
    norm = source_norm if result is delta else result.energy() ** 0.5
    cosine = _cosine(delta, source_norm, result, norm)
    return LayerReport(
        pair=planned.pair,
        similarity=planned.similarity,
        decision="copied" if planned.action == "copy" else "transferred",
        reason=planned.reason,
        by_threshold=planned.by_threshold,
        keys=planned.module.keys,
        rank_in=delta.rank,
        rank_out=result.rank,
        norm_ratio=norm / source_norm if source_norm > 0 else None,
        cosine_to_copy=cosine,
        equals_copy=_is_copy(result, delta, cosine),
        energy_lost=energy_lost,
        undefined_directions=undefined_directions,
        block_energies=block_energies,
        drift_against_lora=None if drift is None or source_norm == 0 else frobenius(drift.read.up) / source_norm,
    )


def _cosine(delta: LowRankDelta, source_norm: float, result: LowRankDelta, norm: float) -> float | None:
    if source_norm == 0 or norm == 0:
        return None
    return 1.0 if result is delta else result.inner(delta) / (norm * source_norm)


def _is_copy(result: LowRankDelta, delta: LowRankDelta, cosine: float | None) -> bool:
    """Whether a result equals the copy. The difference is only computed if the cosine is close enough to 1."""
    if result is delta or cosine is None:
        return result is delta or result.norm() == delta.norm()
    return cosine > 1 - SAME_DELTA and result.minus(delta).norm() <= SAME_DELTA * delta.norm()
