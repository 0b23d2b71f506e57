"""`python3 run.py bench refine [--quick]`: what a few dozen gradient steps without data add to a carried LoRA.

The models are those of `bench quality`, which trains them (kept in .run/bench_quality); what is not trained is left
out, except that --quick takes the committed weights alone: a minute. Kept in .run/bench_refine: a stopped run goes on.
"""

import argparse
import json
import sys
import time
import warnings

import torch

from dev.paths import RUN

from ..quality.committed import committed, workshops
from ..quality.families import FLUX
from ..quality.features import eye
from ..quality.figures import Point
from ..quality.latents import load
from . import tables
from .pairs import Desk, Pair
from .runs import REFINED, STYLES, ablated, pairs
from .timing import timed

MODELS, FOLDER = RUN / "bench_quality", RUN / "bench_refine"

_Measured = tuple[tables.Results, tables.Results, dict[str, dict[str, float]]]  # the third: seconds by pair


def main() -> None:
    parser = argparse.ArgumentParser(prog="run.py bench refine", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="from the committed weights; what CI runs")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)  # small matrices: a second thread costs more than it gives
    warnings.filterwarnings("ignore", message="Mismatch dtype")  # bfloat16 with float32 norms: meant
    started = time.monotonic()
    results, ablations, seconds = _in_short() if quick else _whole()
    for title, text in tables.sections(results, ablations, seconds):
        print(f"\n### {title}\n\n{text}", flush=True)
    promised = tables.promises(results)
    print(json.dumps({"quick": quick, "seconds": round(time.monotonic() - started), "promises": promised}))
    if broken := [promise for promise, holds in promised.items() if not holds]:
        sys.exit("Broken: " + "; ".join(broken))


def _in_short() -> _Measured:
    """The transformer's drifted and pruned children and a stranger, one seed, the default run."""
    workshop, desk = committed(FLUX), Desk(None, None)
    some = [Pair(workshop, workshop, lora, base, 0) for lora in STYLES for base in ("drifted", "pruned", "other")]
    return {pair.label: [desk.points(pair, (REFINED,))] for pair in some}, {}, {}


def _whole() -> _Measured:
    kept = MODELS / "latents.safetensors"
    if not kept.is_file():
        sys.exit(
            f"{kept}: not found. Run `python3 run.py bench quality` first, which trains the models, or use --quick."
        )
    latents = load(kept)
    desk = Desk(eye(latents, MODELS / "features.safetensors"), FOLDER)
    trained = workshops(latents, MODELS)
    results: dict[str, list[Point]] = {}
    first: list[Pair] = []
    for pair, runs in pairs(trained):
        results.setdefault(pair.label, []).append(desk.points(pair, runs))
        first += [pair] if pair.seed == 0 and pair.lora == STYLES[0] else []
    ablations = {pair.label: [desk.points(pair, runs)] for pair, runs in ablated(trained[1])}
    return results, ablations, {pair.label: timed(pair, REFINED) for pair in first}


if __name__ == "__main__":
    main()
