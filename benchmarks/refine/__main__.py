"""`python3 run.py bench refine [--quick]`: measures what refining adds to a transferred LoRA.

The models are those that `bench quality` trains in .run/bench_quality; pairs whose models are missing are left out.
--quick takes a minute and uses the committed weights. A stopped run continues where it was, from .run/bench_refine.
"""

import argparse
import json
import sys
import time
import warnings

import torch

from dev.paths import RUN

from ..quality.committed import committed_store, stores
from ..quality.families import FLUX
from ..quality.features import load_style_network
from ..quality.figures import Point
from ..quality.latents import load
from . import tables
from .pairs import Measurer, Pair
from .runs import REFINED, STYLES, ablation_pairs, pairs
from .timing import time_run

MODELS, FOLDER = RUN / "bench_quality", RUN / "bench_refine"

_Measurements = tuple[
    tables.Results, tables.Results, dict[str, dict[str, float]]
]  # results, ablations, seconds by pair


def main() -> None:
    parser = argparse.ArgumentParser(prog="run.py bench refine", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="use the committed weights, as CI does")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)  # for small matrices a second thread costs more than it saves
    warnings.filterwarnings("ignore", message="Mismatch dtype")  # bfloat16 with float32 norms is intended
    started = time.monotonic()
    results, ablations, seconds = _run_quick() if quick else _run_whole()
    for title, text in tables.sections(results, ablations, seconds):
        print(f"\n### {title}\n\n{text}", flush=True)
    promises = tables.promises(results)
    print(json.dumps({"quick": quick, "seconds": round(time.monotonic() - started), "promises": promises}))
    if broken := [promise for promise, holds in promises.items() if not holds]:
        sys.exit("Broken: " + "; ".join(broken))


def _run_quick() -> _Measurements:
    """Measures the default run on the transformer's drifted and pruned children and a stranger, with one seed."""
    store, measurer = committed_store(FLUX), Measurer(None, None)
    quick_pairs = [Pair(store, store, lora, base, 0) for lora in STYLES for base in ("drifted", "pruned", "other")]
    return {pair.label: [measurer.points(pair, (REFINED,))] for pair in quick_pairs}, {}, {}


def _run_whole() -> _Measurements:
    path = MODELS / "latents.safetensors"
    if not path.is_file():
        sys.exit(
            f"{path}: not found. Run `python3 run.py bench quality` first, which trains the models, or use --quick."
        )
    latents = load(path)
    measurer = Measurer(load_style_network(latents, MODELS / "features.safetensors"), FOLDER)
    trained_stores = stores(latents, MODELS)
    results: dict[str, list[Point]] = {}
    first: list[Pair] = []
    for pair, runs in pairs(trained_stores):
        results.setdefault(pair.label, []).append(measurer.points(pair, runs))
        first += [pair] if pair.seed == 0 and pair.lora == STYLES[0] else []
    ablations = {pair.label: [measurer.points(pair, runs)] for pair, runs in ablation_pairs(trained_stores[1])}
    return results, ablations, {pair.label: time_run(pair, REFINED) for pair in first}


if __name__ == "__main__":
    main()
