"""Assigns sources to targets from a table of scores."""

# scipy has no types, and torch's tolist has none.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

import math

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def align_in_order(scores: Tensor, floor: float) -> list[int | None]:
    """Assign a source to each target so that sources keep their order and the sum of (score - floor) is largest.

    scores: (sources, targets), NaN where a pair is impossible. Returns the source index of each target, or None where
    no score is above the floor. A source may feed several targets (grown models). Dynamic programming in
    O(sources x targets).
    """
    sources = len(scores)
    gains: list[list[float]] = (scores.double() - floor).nan_to_num(nan=-math.inf).T.tolist()  # (targets, sources)
    best = [0.0] * sources  # the largest sum so far if no source after this one is used
    choices: list[list[int | None]] = []  # for each target and last allowed source: the chosen source, or None
    for gain in gains:
        row: list[int | None] = []
        sums: list[float] = []
        for source in range(sources):
            choice, total = None, best[source]
            if gain[source] > 0 and best[source] + gain[source] > total:
                choice, total = source, best[source] + gain[source]
            if sums and sums[-1] >= total:
                choice, total = row[-1], sums[-1]
            row.append(choice)
            sums.append(total)
        choices.append(row)
        best = sums
    return _trace_back(choices, sources)


def _trace_back(choices: list[list[int | None]], sources: int) -> list[int | None]:
    """Walk back from the last target. The source of a target is the last source that earlier targets may use."""
    assigned: list[int | None] = []
    last = sources - 1
    for row in reversed(choices):
        choice = row[last] if last >= 0 else None
        assigned.append(choice)
        last = last if choice is None else choice
    return assigned[::-1]


def align_freely(scores: Tensor, floor: float) -> list[int | None]:
    """Assign sources to targets in any order, each source at most once, so that the sum of (score - floor) is largest.

    scores and result as in `align_in_order`. The assignment problem of Kuhn (1955), solved by SciPy.
    """
    gains = (scores.double() - floor).nan_to_num(nan=0.0).clamp(min=0)
    assigned: list[int | None] = [None] * scores.shape[1]
    for source, target in zip(*linear_sum_assignment(gains.numpy(), maximize=True), strict=True):
        if gains[source, target] > 0:
            assigned[int(target)] = int(source)
    return assigned


def assign_all(scores: Tensor) -> Tensor:
    """Assign a different column to each row of scores (t, s), s >= t, with the largest sum. Returns int64 (t)."""
    _, columns = linear_sum_assignment(scores.cpu().numpy(), maximize=True)
    return torch.from_numpy(columns).to(scores.device)
