"""Our transfer on file bases: cold, with a warm cache, without any decomposition; and its error against float64."""

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
    comparison: Comparison[FileBase]
    moved: Transferred


def carry_over(
    source: FileBase,
    target: FileBase,
    deltas: Mapping[str, LowRankDelta],
    using: Resources,
    *,
    measure: Measure = "subspace",
    method: str = "prolora",
) -> Run:
    """Everything that the two nodes do between reading an adapter and writing one."""
    matching = match_by_name(source.layers, target.layers, deltas)
    comparison = compare(source, target, matching, RULE, measure=measure, deltas=deltas, adapter="lora", using=using)
    settings = TransferSettings(method=method, threshold=0.0)
    plan = plan_transfer(comparison, modules_of(deltas), settings, adapter="lora")
    return Run(comparison, transfer(comparison, plan, deltas, using))


def cache_in(folder: Path, precision: str = "float32") -> SubspaceCache:
    return SubspaceCache(folder, precision, limit=200 * 10**9)


@dataclass(frozen=True)
class Errors:
    """Against float64: the largest error of Phi, the largest and the median relative error of a delta."""

    phi: float
    delta: float
    delta_median: float


def errors(run: Run, deltas: Mapping[str, LowRankDelta], only: set[str]) -> Errors:
    """The errors of a prolora transfer on some layers, by a singular value decomposition in float64."""
    phis: list[float] = []
    relative: list[float] = []
    for name in only:
        pair, similarity = run.comparison.layers[name]
        weights = run.comparison.source.read(pair.source), run.comparison.target.read(pair.target)
        (u_s, v_s), (u_t, v_t) = (_exact(weight) for weight in weights)
        for side, one, other in ((similarity.left, u_s, u_t), (similarity.right, v_s, v_t)):
            if side.phi is not None:
                phis.append(abs(side.phi - frobenius(one.mT @ other) ** 2 / one.shape[1]))
        delta = deltas[name].to(dtype=torch.float64)
        inside = _both(project, u_s, u_t, delta.up), _both(project, v_s, v_t, delta.down.mT)
        outside = _both(reject, u_s, u_t, delta.up), _both(reject, v_s, v_t, delta.down.mT)
        expected = LowRankDelta(inside[0], inside[1].mT).plus(LowRankDelta(outside[0], outside[1].mT))
        found = run.moved.deltas[pair.target.name].to(dtype=torch.float64)
        relative.append(found.minus(expected).norm() / expected.norm())
    return Errors(max(phis, default=0.0), max(relative), statistics.median(relative))


def _exact(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Leading bases (m, k) and (n, k) in float64."""
    wide = weight.double()
    turned = wide.shape[0] < wide.shape[1]
    left, _, right_t = torch.linalg.svd(wide.mT if turned else wide, full_matrices=False)
    k = min(K, *weight.shape)
    bases = left[:, :k], right_t.mT[:, :k]
    return (bases[1], bases[0]) if turned else bases


def _both(part, source_basis: Tensor, target_basis: Tensor, x: Tensor) -> Tensor:
    """The part of x in (or outside) the source's space, and then in (or outside) the target's."""
    return part(target_basis, part(source_basis, x))
