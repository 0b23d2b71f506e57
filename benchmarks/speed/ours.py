"""Our transfer on bases in files, and its errors against float64."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from core.cache import SubspaceCache
from core.delta import LowRankDelta
from core.linalg import frobenius, project, reject
from core.matching import match_by_name
from core.plan import TransferSettings, modules_of, plan_transfer
from core.resources import Resources
from core.similarity import Comparison, Measure, compare
from core.subspace import RankRule
from core.transfer import Transferred, transfer

from .weights import FileBase

K = 320  # LoRA-X's rank
RULE = RankRule("fixed", K)


@dataclass(frozen=True)
class Run:
    """The comparison and the result of a transfer."""

    comparison: Comparison[FileBase]
    transferred: Transferred


def transfer_layers(
    source: FileBase,
    target: FileBase,
    deltas: Mapping[str, LowRankDelta],
    using: Resources,
    *,
    measure: Measure = "subspace",
    method: str = "prolora",
) -> Run:
    """Does everything that the two nodes do between reading an adapter and writing the result."""
    matching = match_by_name(source.layers, target.layers, deltas)
    comparison = compare(source, target, matching, RULE, measure=measure, deltas=deltas, adapter="lora", using=using)
    settings = TransferSettings(method=method, threshold=0.0)
    plan = plan_transfer(comparison, modules_of(deltas), settings, adapter="lora")
    return Run(comparison, transfer(comparison, plan, deltas, using))


def cache_in(folder: Path, precision: str = "float32") -> SubspaceCache:
    return SubspaceCache(folder, precision, limit=200 * 10**9)


@dataclass(frozen=True)
class Errors:
    """Errors against float64: the largest of Phi, the largest and the median relative error of a delta."""

    phi: float
    delta: float
    delta_median: float


def measure_errors(run: Run, deltas: Mapping[str, LowRankDelta], only: set[str]) -> Errors:
    """Measures the errors of a prolora transfer on these layers against a decomposition in float64."""
    phis: list[float] = []
    relative: list[float] = []
    for name in only:
        pair, similarity = run.comparison.layers[name]
        weights = run.comparison.source.read(pair.source), run.comparison.target.read(pair.target)
        (u_s, v_s), (u_t, v_t) = (_exact_bases(weight) for weight in weights)
        for side, source_basis, target_basis in ((similarity.left, u_s, u_t), (similarity.right, v_s, v_t)):
            if side.phi is not None:
                phis.append(abs(side.phi - frobenius(source_basis.mT @ target_basis) ** 2 / source_basis.shape[1]))
        delta = deltas[name].to(dtype=torch.float64)
        inside = _apply_twice(project, u_s, u_t, delta.up), _apply_twice(project, v_s, v_t, delta.down.mT)
        outside = _apply_twice(reject, u_s, u_t, delta.up), _apply_twice(reject, v_s, v_t, delta.down.mT)
        expected = LowRankDelta(inside[0], inside[1].mT).plus(LowRankDelta(outside[0], outside[1].mT))
        actual = run.transferred.deltas[pair.target.name].to(dtype=torch.float64)
        relative.append(actual.minus(expected).norm() / expected.norm())
    return Errors(max(phis, default=0.0), max(relative), statistics.median(relative))


def _exact_bases(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Leading bases (m, k) and (n, k) in float64."""
    exact = weight.double()
    transpose = exact.shape[0] < exact.shape[1]
    left, _, right_t = torch.linalg.svd(exact.mT if transpose else exact, full_matrices=False)
    k = min(K, *weight.shape)
    bases = left[:, :k], right_t.mT[:, :k]
    return (bases[1], bases[0]) if transpose else bases


def _apply_twice(part, source_basis: Tensor, target_basis: Tensor, x: Tensor) -> Tensor:
    """Applies `part` (project or reject) to x with the source's space, and then with the target's."""
    return part(target_basis, part(source_basis, x))
