"""Makes the tables of RESULTS.md from the measured points."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..quality.figures import Point, damage, mean_share, recovered
from ..quality.tables import DRIFTED, table
from .pairs import rows_of_training
from .runs import ABLATIONS, DIFFERENCES, LONG, REFINED, UNRELATED

Results = Mapping[str, Sequence[Point]]  # the label of a pair -> the points of its seeds
NAMES = ("copy", "restore_both", REFINED.name, DIFFERENCES.name, LONG.name)
MOST_COMPUTE = 0.25  # as a share of training the LoRA on the target from data


def sections(results: Results, ablations: Results, seconds: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str]]:
    titled = [
        ("Recovered fraction", by_name(results, NAMES, lambda points, name: str(recovered(points, name)))),
        (
            "Loss on the target's own style, with the LoRA over without",
            by_name(results, (*NAMES, "trained"), lambda points, name: f"{damage(points, name):.2f}"),
        ),
        ("What a run costs and how it ends", costs(results)),
    ]
    if ablations:  # only the whole run has ablations and the style network
        titled.append(("Distance of the drawings to the style: mean of the seeds", distances(results)))
        titled.append(("Steps, teacher's set, start, rank, rate: recovered fraction, first seed", ablation(ablations)))
        titled.append(("Seconds, beside training the LoRA on the target from drawings", durations(seconds)))
    return titled


def durations(seconds: Mapping[str, Mapping[str, float]]) -> str:
    """A table of seconds by pair."""
    rows = [
        [
            label,
            *(f"{times[key]:.1f}" for key in ("training", "teaching", "refining")),
            f"{(times['teaching'] + times['refining']) / times['training']:.2f}",
        ]
        for label, times in seconds.items()
    ]
    return table(["pair", "training", "teacher's set", "refining", "of training"], rows)


def by_name(results: Results, wanted: Sequence[str], cell: Callable[[Sequence[Point], str], str]) -> str:
    names = [name for name in wanted if any(_has(points, name) for points in results.values())]
    rows = [
        [label, *(cell(points, name) if _has(points, name) else "" for name in names)]
        for label, points in results.items()
    ]
    return table(["pair", *names], rows)


def distances(results: Results) -> str:
    def cell(points: Sequence[Point], name: str) -> str:
        if name in ("none", "trained"):
            measured = [point["baseline"].get(f"{name}, distance") for point in points]
        else:
            measured = [point[name].get("distance") for point in points]
        return f"{np.mean(measured):.2f}" if None not in measured else ""

    return by_name(results, ("none", *NAMES, "trained"), cell)


def costs(results: Results) -> str:
    """A table of the default run: compute beside training the LoRA on the target, seconds, score, and best step."""
    rows: list[list[str]] = []
    for label, points in results.items():
        runs = [point[REFINED.name] for point in points]
        rows.append(
            [
                label,
                f"{compute(label, points):.2f}",
                f"{_mean(runs, 'teaching'):.1f}",
                f"{_mean(runs, 'seconds'):.1f}",
                f"{_mean(runs, 'start'):.2f}",
                f"{_mean(runs, 'score'):.2f}",
                " ".join(f"{run['best']}/{run['steps']}" for run in runs),
            ]
        )
    heads = ["pair", "compute over training's", "teacher, s", "student, s", "score at start", "at the end", "best/last"]
    return table(heads, rows)


def ablation(results: Results) -> str:
    names = [REFINED.name, *(run.name for run in ABLATIONS)]
    rows = [
        [name, *(f"{mean_share(points, name):.2f}" if _has(points, name) else "" for points in results.values())]
        for name in names
    ]
    return table(["run", *results], rows)


def compute(label: str, points: Sequence[Point]) -> float:
    """The compute of the default run as a share of training the LoRA on the target."""
    lora = label.split(", ")[1].split(":")[0]
    return _mean([point[REFINED.name] for point in points], "rows") / rows_of_training(lora)


def promises(results: Results) -> dict[str, bool]:
    """Each promise, and whether it holds."""
    drifted = [_share(results, label) for label in results if _base(label) in DRIFTED]
    pruned = [_share(results, label) for label in results if _base(label) == "pruned"]
    unrelated = [_share(results, label) for label in results if _base(label) in UNRELATED]
    return {
        "drifted targets recover .80 on average": _least_mean(drifted, 0.80),
        "the pruned child recovers .93 on average": _least_mean(pruned, 0.93),
        "unrelated and other width recover .50 on average": _least_mean(unrelated, 0.50),
        "at no more than a quarter of the training's compute": all(
            compute(label, points) <= MOST_COMPUTE for label, points in results.items()
        ),
        "never below the start by more than .02": all(
            mean_share([point], REFINED.name) >= _start(point) - 0.02 for points in results.values() for point in points
        ),
    }


def _least_mean(shares: Sequence[float], least: float) -> bool:
    return not shares or float(np.mean(shares)) >= least


def _start(point: Point) -> float:
    """What the run's start recovers; zeros recover nothing."""
    return mean_share([point], "restore_both") if "restore_both" in point else 0.0


def _share(results: Results, label: str) -> float:
    return mean_share(results[label], REFINED.name)


def _base(label: str) -> str:
    return label.rpartition(": ")[2]


def _has(points: Sequence[Point], name: str) -> bool:
    return name in ("none", "trained") or all(name in point for point in points)


def _mean(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(np.mean([run[key] for run in runs]))
