"""The tables of RESULTS.md, out of the points."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .candidates import CANDIDATES
from .figures import Point, damage, difference, mean_share, picked, rank_correlation, recovered

RELATED = ("near", "drifted", "far", "turbo", "pruned")
DRIFTED = ("near", "drifted", "far")
DEFAULT = "restore_both"
SCORES = ("closed", "G", "cos")
MAIN = (
    "copy",
    "copy, relative norm",
    "lora_x 0.5",
    "prolora 0.5",
    "prolora_full 0.5",
    "rotate 0.5",
    "restore",
    DEFAULT,
)
STRENGTHS = tuple(
    f"{method} x {gain:g}" if gain != 1 else method
    for method in ("copy", DEFAULT)
    for gain in (0.25, 0.5, 0.75, 1.0, 1.25)
)


@dataclass(frozen=True)
class Results:
    """family -> LoRA -> target -> the points of every seed that was measured."""

    points: Mapping[str, Mapping[str, Mapping[str, Sequence[Point]]]]

    def every(self) -> Iterable[tuple[str, str, Mapping[str, Sequence[Point]]]]:
        return ((family, lora, some) for family, loras in self.points.items() for lora, some in loras.items())

    def columns(self, targets: Iterable[str]) -> list[tuple[str, Sequence[Point]]]:
        wanted = list(targets)
        return [
            (f"{family}, {lora}: {target}", some[target])
            for family, lora, some in self.every()
            for target in wanted
            if target in some
        ]


def methods(results: Results, family: str, lora: str) -> str:
    """Recovered fraction: methods x targets."""
    some = results.points[family][lora]
    names = [*MAIN, "restore_both everywhere", "copy, same names", "random, equal norm"]
    return table(
        ["method", *some], [[name, *(str(recovered(points, name)) for points in some.values())] for name in names]
    )


def gains(results: Results) -> str:
    """How much more the default recovers than the plain copy, with the interval of the difference."""
    rows = [
        [
            f"{family}, {lora}",
            *(str(difference(some[target], DEFAULT, "copy")) if target in some else "" for target in RELATED),
        ]
        for family, lora, some in results.every()
    ]
    return table(["family, LoRA", *RELATED], rows)


def mean_gain(results: Results, targets: Sequence[str] = DRIFTED) -> float:
    """The default's gain over the copy, mean over families, LoRAs and these targets."""
    found = [difference(points, DEFAULT, "copy").mean for _, points in results.columns(targets)]
    return sum(found) / len(found)


def harm(results: Results) -> str:
    """The loss on the target's own style, with the LoRA over without."""
    names = [*MAIN, "random, equal norm", "trained"]
    rows = [[name, *(f"{damage(points, one):.2f}" for one in names)] for name, points in results.columns(RELATED)]
    return table(["family, LoRA: target", *names], rows)


def groups(results: Results, names: Sequence[str]) -> str:
    """Recovered fraction of some candidates: mean over seeds."""
    rows = [[name, *(_mean(points, one) for one in names)] for name, points in results.columns(RELATED)]
    return table(["family, LoRA: target", *names], rows)


def _named(group: str, start: str | tuple[str, ...] = "") -> list[str]:
    return [one.name for one in CANDIDATES if one.group == group and one.name.startswith(start)]


def _mean(points: Sequence[Point], name: str) -> str:
    """Over the seeds that were measured; some ablations are made on the first one only."""
    some = [point for point in points if name in point]
    return f"{mean_share(some, name):.2f}" if some else ""


def scores(results: Results, kind: str = "sampled") -> str:
    """Spearman's rank correlation of each score with the recovered fraction, over all candidates of a target."""
    rows = [
        [name, *(str(rank_correlation(points, _measured(points), f"{score} {kind}")) for score in SCORES)]
        for name, points in results.columns(RELATED)
    ]
    return table(["family, LoRA: target", *SCORES], rows)


def least_correlation(results: Results) -> float:
    """The lowest of the figures that the score's promise rests on."""
    columns = results.columns(RELATED)
    return min(rank_correlation(points, _measured(points), "closed sampled").mean for _, points in columns)


def _measured(points: Sequence[Point]) -> list[str]:
    return [one.name for one in CANDIDATES if all(one.name in point for point in points)]


def picks(results: Results) -> tuple[str, float]:
    """Strength picked by the score against the best fixed strength; and the worst shortfall."""
    rows: list[list[str]] = []
    worst = 0.0
    for name, points in results.columns(RELATED):
        line = [name]
        for method in ("copy", DEFAULT):
            choices = [one for one in STRENGTHS if one.startswith(method)]
            by_score, best = picked(points, choices, "closed sampled")
            worst = max(worst, best - by_score)
            line += [f"{mean_share(points, method):.3f}", f"{by_score:.3f}", f"{best:.3f}"]
        rows.append(line)
    heads = [f"{method}: {what}" for method in ("copy", DEFAULT) for what in ("at 1", "picked", "best fixed")]
    return table(["family, LoRA: target", *heads], rows), worst


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def promises(results: Results) -> dict[str, bool]:
    """What the issue asks for, and whether it holds."""
    related, pruned = results.columns(RELATED), results.columns(["pruned"])
    return {
        "the default recovers at least as much as the copy on every related target, within the interval": all(
            difference(points, DEFAULT, "copy").high >= 0 for _, points in related
        ),
        "and 0.05 more on average over the drifted ones": mean_gain(results) >= 0.05,
        "on the pruned child matched layers beat same names": all(
            difference(points, "copy", "copy, same names").low > 0 for _, points in pruned
        ),
        "the score ranks methods: Spearman 0.8 in every related target": least_correlation(results) >= 0.8,
        "strength picked by the score ends at most 0.02 below the best fixed strength": picks(results)[1] <= 0.02,
    }


def sections(results: Results) -> list[tuple[str, str]]:
    """Every table with its title, in the order of RESULTS.md."""
    return [
        *(
            (f"Recovered fraction: {family}, {lora}", methods(results, family, lora))
            for family, lora, _ in results.every()
        ),
        ("How much more the default recovers than the copy", gains(results)),
        ("Loss on the target's own style, with the LoRA over without", harm(results)),
        ("Strength", groups(results, STRENGTHS)),
        (
            "Rank rule: the methods as published",
            groups(results, [*_named("rank rule", "lora_x"), *_named("rank rule", "prolora ")]),
        ),
        (
            "Rank rule: the others",
            groups(results, [*_named("rank rule", "prolora_full"), *_named("rank rule", "rotate")]),
        ),
        ("Threshold", groups(results, _named("threshold"))),
        ("Does a score rank the candidates? Spearman, from the source's own sampling", scores(results)),
        ("The same on real drawings, noised", scores(results, "drawn")),
        ("Strength picked by the score", picks(results)[0]),
        ("Strangers, forced", strangers(results)),
        ("What the verdict says", verdicts(results)),
    ]


def strangers(results: Results) -> str:
    """Another seed's base, where the verdict refuses: loading the old LoRA, which goes by names, and a forced transfer,
    which finds no block that is like one of the source's and carries nothing."""
    columns = results.columns(["other"])
    names = ["copy, same names", "copy", DEFAULT]
    return table(
        ["method", *(name for name, _ in columns)],
        [[one, *(str(recovered(points, one)) for _, points in columns)] for one in names],
    )


def verdicts(results: Results) -> str:
    """The word by seed, and the figures of the first seed."""
    figures = ("weight_cosine", "similarity", "drift", "drift_against_lora", "lost")
    rows: list[list[str]] = []
    for name, points in results.columns((*RELATED, "other")):
        words = " ".join(point["verdict"]["word"] for point in points)
        first = points[0]["verdict"]["figures"]
        rows.append([name, words, *("" if first[one] is None else f"{first[one]:.3f}" for one in figures)])
    return table(["family, LoRA: target", "verdict by seed", *figures], rows)
