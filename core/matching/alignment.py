"""Assign sources to targets from a table of scores."""

# scipy has no types, and torch's tolist has none.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

import math

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def align_in_order(scores: Tensor, floor: float) -> list[int | None]:
    """The source of each target, so that the sum of scores above `floor` is largest and sources never go back.

    scores: (sources, targets), NaN where a pair is impossible. A source may feed several targets (grown models); a
    target without a score above the floor gets None. Dynamic programming in O(sources x targets).
    """
    sources = len(scores)
    gains: list[list[float]] = (scores.double() - floor).nan_to_num(nan=-math.inf).T.tolist()  # (targets, sources)
    best = [0.0] * sources  # the largest sum so far, when the last source taken is at most this one
    chosen: list[list[int | None]] = []  # for each target and last source allowed: the source taken, None for none
    for gain in gains:
        row: list[int | None] = []
        sums: list[float] = []
        for source in range(sources):
            taken, total = None, best[source]
            if gain[source] > 0 and best[source] + gain[source] > total:
                taken, total = source, best[source] + gain[source]
            if sums and sums[-1] >= total:
                taken, total = row[-1], sums[-1]
            row.append(taken)
            sums.append(total)
        chosen.append(row)
        best = sums
    return _trace(chosen, sources)


def _trace(chosen: list[list[int | None]], sources: int) -> list[int | None]:
    """Walk back from the last target; what one took is the last that those before it may take."""
    found: list[int | None] = []
    last = sources - 1
    for row in reversed(chosen):
        taken = row[last] if last >= 0 else None
        found.append(taken)
        last = last if taken is None else taken
    return found[::-1]


def align_freely(scores: Tensor, floor: float) -> list[int | None]:
    """The same without order, each source once: the assignment of largest sum (Kuhn, 1955, as SciPy solves it)."""
    gains = (scores.double() - floor).nan_to_num(nan=0.0).clamp(min=0)
    found: list[int | None] = [None] * scores.shape[1]
    for source, target in zip(*linear_sum_assignment(gains.numpy(), maximize=True), strict=True):
        if gains[source, target] > 0:
            found[int(target)] = int(source)
    return found


def assign_all(scores: Tensor) -> Tensor:
    """For each row of scores (t, s), s >= t, a column of its own, so that the sum is largest: int64 (t)."""
    _, columns = linear_sum_assignment(scores.cpu().numpy(), maximize=True)
    return torch.from_numpy(columns).to(scores.device)
