"""Figures with intervals from measurements, by a bootstrap over seeds and subjects."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

DRAWS = 1000  # bootstrap samples


@dataclass(frozen=True)
class Figure:
    """A mean, and the interval that holds 95 % of the bootstrap samples."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ({self.low:.2f} to {self.high:.2f})"


Point = Mapping[str, Any]


def recovered(points: Sequence[Point], name: str) -> Figure:
    """The share that a candidate reaches of the gain of a LoRA trained on the target: mean over seeds."""
    without, trained, losses = (_losses(points, key) for key in ("none", "trained", name))
    return _bootstrap(
        lambda s, p: _share(*(part[s][:, p] for part in (without, losses, trained))), len(points), losses.shape[1]
    )


def mean_share(points: Sequence[Point], name: str) -> float:
    """The mean of `recovered`, without an interval."""
    return _share(*(_losses(points, key) for key in ("none", name, "trained")))


def difference(points: Sequence[Point], name: str, reference: str) -> Figure:
    """How much more a candidate recovers than the reference candidate, on the same bootstrap samples."""
    without, trained, losses, reference_losses = (_losses(points, key) for key in ("none", "trained", name, reference))

    def gap(seeds: np.ndarray, subjects: np.ndarray) -> float:
        parts = [part[seeds][:, subjects] for part in (without, losses, reference_losses, trained)]
        return _share(parts[0], parts[1], parts[3]) - _share(parts[0], parts[2], parts[3])

    return _bootstrap(gap, len(points), losses.shape[1])


def difference_between(points: Sequence[Point], name: str, others: Sequence[Point], reference: str) -> Figure:
    """How much more a candidate recovers than a candidate of other points with the same seeds and subjects."""
    parts = [*(_losses(points, key) for key in ("none", name, "trained"))]
    parts += [*(_losses(others, key) for key in ("none", reference, "trained"))]

    def gap(seeds: np.ndarray, subjects: np.ndarray) -> float:
        drawn = [part[seeds][:, subjects] for part in parts]
        return _share(*drawn[:3]) - _share(*drawn[3:])

    return _bootstrap(gap, len(points), parts[0].shape[1])


def kept(points: Sequence[Point], own: Sequence[Point], name: str) -> Figure:
    """The share that a candidate reaches on the target, over the share that the LoRA itself reaches on its source."""
    parts = [*(_losses(points, key) for key in ("none", name, "trained"))]
    parts += [*(_losses(own, key) for key in ("none", "copy", "trained"))]

    def ratio(seeds: np.ndarray, subjects: np.ndarray) -> float:
        drawn = [part[seeds][:, subjects] for part in parts]
        return _share(*drawn[:3]) / _share(*drawn[3:])

    return _bootstrap(ratio, len(points), parts[0].shape[1])


def damage(points: Sequence[Point], name: str) -> float:
    """The loss on the target's own style with the LoRA over the loss without: mean over seeds."""
    own = _losses(points, name, own=True).mean(1) / _losses(points, "none", own=True).mean(1)
    return float(own.mean())


def rank_correlation(points: Sequence[Point], names: Sequence[str], score: str) -> Figure:
    """Spearman's rank correlation of a score with the recovered fraction over the candidates of a target: mean over
    seeds. The interval comes from a bootstrap over candidates."""
    shares = np.stack([[mean_share([point], name) for name in names] for point in points])
    scores = np.stack([[point[name][score] for name in names] for point in points])
    generator = np.random.default_rng(1)
    all_candidates = np.arange(len(names))

    def mean(chosen: np.ndarray) -> float:
        correlations = [
            np.corrcoef(rankdata(a[chosen]), rankdata(b[chosen]))[0, 1] for a, b in zip(shares, scores, strict=True)
        ]
        return float(np.mean(correlations))

    drawn = [mean(generator.integers(0, len(names), len(names))) for _ in range(200)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Figure(mean(all_candidates), float(low), float(high))


def pick_by_score(points: Sequence[Point], names: Sequence[str], score: str) -> tuple[float, float]:
    """The recovered fraction of the candidate with the best score, picked for each seed; and that of the candidate
    that is best over all seeds."""
    shares = {name: [mean_share([point], name) for point in points] for name in names}
    chosen = [max(names, key=lambda name: point[name][score]) for point in points]
    by_score = float(np.mean([shares[name][index] for index, name in enumerate(chosen)]))
    return by_score, max(float(np.mean(values)) for values in shares.values())


def _losses(points: Sequence[Point], name: str, *, own: bool = False) -> np.ndarray:
    """Losses (seeds, subjects)."""
    if name in ("none", "trained"):
        return np.array([point["baseline"][f"{name}, own" if own else name] for point in points])
    return np.array([point[name]["own" if own else "loss"] for point in points])


def _share(without: np.ndarray, losses: np.ndarray, trained: np.ndarray) -> float:
    gains = (without.mean(1) - losses.mean(1)) / (without.mean(1) - trained.mean(1))
    return float(gains.mean())


def _bootstrap(figure: Callable[[np.ndarray, np.ndarray], float], seeds: int, subjects: int) -> Figure:
    generator = np.random.default_rng(0)
    whole = figure(np.arange(seeds), np.arange(subjects))
    drawn = [
        figure(generator.integers(0, seeds, seeds), generator.integers(0, subjects, subjects)) for _ in range(DRAWS)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Figure(whole, float(low), float(high))
