"""Makes the tables of RESULTS.md from the measured points."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .candidates import CANDIDATES
from .figures import Point, damage, difference, mean_share, pick_by_score, rank_correlation, recovered

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
    """The measured points of every seed: family -> LoRA -> target -> points."""

    points: Mapping[str, Mapping[str, Mapping[str, Sequence[Point]]]]

    def every(self) -> Iterable[tuple[str, str, Mapping[str, Sequence[Point]]]]:
        return ((family, lora, targets) for family, loras in self.points.items() for lora, targets in loras.items())

    def columns(self, targets: Iterable[str]) -> list[tuple[str, Sequence[Point]]]:
        wanted = list(targets)
        return [
            (f"{family}, {lora}: {target}", by_target[target])
            for family, lora, by_target in self.every()
            for target in wanted
            if target in by_target
        ]


def methods(results: Results, family: str, lora: str) -> str:
    """A table of the recovered fraction: methods x targets."""
    by_target = results.points[family][lora]
    names = [*MAIN, "restore_both everywhere", "copy, same names", "random, equal norm"]
    return table(
        ["method", *by_target],
        [[name, *(str(recovered(points, name)) for points in by_target.values())] for name in names],
    )


def gains(results: Results) -> str:
    """A table of how much more the default recovers than the plain copy, with the interval of the difference."""
    rows = [
        [
            f"{family}, {lora}",
            *(str(difference(by_target[target], DEFAULT, "copy")) if target in by_target else "" for target in RELATED),
        ]
        for family, lora, by_target in results.every()
    ]
    return table(["family, LoRA", *RELATED], rows)


def mean_gain(results: Results, targets: Sequence[str] = DRIFTED) -> float:
    """The default's gain over the copy: mean over families, LoRAs and these targets."""
    gains_by_column = [difference(points, DEFAULT, "copy").mean for _, points in results.columns(targets)]
    return sum(gains_by_column) / len(gains_by_column)


def harm(results: Results) -> str:
    """A table of the loss on the target's own style, with the LoRA over without."""
    names = [*MAIN, "random, equal norm", "trained"]
    rows = [[name, *(f"{damage(points, method):.2f}" for method in names)] for name, points in results.columns(RELATED)]
    return table(["family, LoRA: target", *names], rows)


def groups(results: Results, names: Sequence[str]) -> str:
    """A table of the recovered fraction of these candidates: mean over seeds."""
    rows = [[name, *(_mean(points, candidate) for candidate in names)] for name, points in results.columns(RELATED)]
    return table(["family, LoRA: target", *names], rows)


def _names_of(group: str, start: str | tuple[str, ...] = "") -> list[str]:
    return [candidate.name for candidate in CANDIDATES if candidate.group == group and candidate.name.startswith(start)]


def _mean(points: Sequence[Point], name: str) -> str:
    """The mean over the measured seeds; some ablations were run on the first seed only."""
    measured = [point for point in points if name in point]
    return f"{mean_share(measured, name):.2f}" if measured else ""


def scores(results: Results, kind: str = "sampled") -> str:
    """A table of Spearman's rank correlation of each score with the recovered fraction, over a target's candidates."""
    rows = [
        [name, *(str(rank_correlation(points, _complete_candidates(points), f"{score} {kind}")) for score in SCORES)]
        for name, points in results.columns(RELATED)
    ]
    return table(["family, LoRA: target", *SCORES], rows)


def least_correlation(results: Results) -> float:
    """The lowest rank correlation of the score; the promise about the score rests on it."""
    columns = results.columns(RELATED)
    return min(rank_correlation(points, _complete_candidates(points), "closed sampled").mean for _, points in columns)


def _complete_candidates(points: Sequence[Point]) -> list[str]:
    return [candidate.name for candidate in CANDIDATES if all(candidate.name in point for point in points)]


def picks(results: Results) -> tuple[str, float]:
    """A table of the strength that the score picks beside the best fixed strength; and the largest shortfall."""
    rows: list[list[str]] = []
    worst = 0.0
    for name, points in results.columns(RELATED):
        line = [name]
        for method in ("copy", DEFAULT):
            choices = [strength for strength in STRENGTHS if strength.startswith(method)]
            by_score, best = pick_by_score(points, choices, "closed sampled")
            worst = max(worst, best - by_score)
            line += [f"{mean_share(points, method):.3f}", f"{by_score:.3f}", f"{best:.3f}"]
        rows.append(line)
    heads = [f"{method}: {column}" for method in ("copy", DEFAULT) for column in ("at 1", "picked", "best fixed")]
    return table(["family, LoRA: target", *heads], rows), worst


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def promises(results: Results) -> dict[str, bool]:
    """Each promise, and whether it holds."""
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
            groups(results, [*_names_of("rank rule", "lora_x"), *_names_of("rank rule", "prolora ")]),
        ),
        (
            "Rank rule: the others",
            groups(results, [*_names_of("rank rule", "prolora_full"), *_names_of("rank rule", "rotate")]),
        ),
        ("Threshold", groups(results, _names_of("threshold"))),
        ("Does a score rank the candidates? Spearman, from the source's own sampling", scores(results)),
        ("The same on real drawings, noised", scores(results, "drawn")),
        ("Strength picked by the score", picks(results)[0]),
        ("Strangers, forced", strangers(results)),
        ("What the verdict says", verdicts(results)),
    ]


def strangers(results: Results) -> str:
    """A table of the base with another seed, which the verdict refuses. Loading the old LoRA goes by names; a forced
    transfer finds no related block and transfers nothing."""
    columns = results.columns(["other"])
    names = ["copy, same names", "copy", DEFAULT]
    return table(
        ["method", *(name for name, _ in columns)],
        [[method, *(str(recovered(points, method)) for _, points in columns)] for method in names],
    )


def verdicts(results: Results) -> str:
    """A table of the verdict by seed, and the figures of the first seed."""
    figures = ("weight_cosine", "similarity", "drift", "drift_against_lora", "lost")
    rows: list[list[str]] = []
    for name, points in results.columns((*RELATED, "other")):
        words = " ".join(point["verdict"]["word"] for point in points)
        first = points[0]["verdict"]["figures"]
        rows.append([name, words, *("" if first[figure] is None else f"{first[figure]:.3f}" for figure in figures)])
    return table(["family, LoRA: target", "verdict by seed", *figures], rows)
