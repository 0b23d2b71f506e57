"""`python3 run.py bench quality [--quick | --tables | --lora-x]`: measures how well every method transfers a LoRA.

The whole run downloads the drawings, trains what is not committed of two families of bases and their LoRAs, measures,
and prints the tables of RESULTS.md. It takes about four hours of one core; a stopped run continues where it was, from
.run/bench_quality. --tables trains nothing and measures what is trained. --lora-x trains and measures only what the
tables on LoRA-X need, of the transformer. --quick takes two minutes and uses the committed weights.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Sequence

import torch

from dev.paths import RUN

from . import autoencoder, bases, committed, lora_x, sheets, tables
from .bases import ModelStore
from .candidates import CANDIDATES
from .families import FLUX
from .features import load_style_network
from .latents import Latents, prepare
from .points import Measurement, points
from .tables import RELATED, Results

FOLDER = RUN / "bench_quality"
SEEDS = (0, 1, 2)
STYLES = tuple(f"{style} 16" for style in bases.STYLES)
# Seeds for the ablations and the drawings. The UNet has one, because a pass takes twice as long.
ABLATED = {"flux": SEEDS, "unet": SEEDS[:1]}
MAIN_NAMES = {*tables.MAIN, *tables.STRENGTHS, "copy, same names", "restore_both everywhere", "random, equal norm"}
MAIN = tuple(candidate for candidate in CANDIDATES if candidate.name in MAIN_NAMES)
RANKS, SUBJECT = ("line 4", "line 64"), "robot 4"


def main() -> None:
    parser = argparse.ArgumentParser(prog="run.py bench quality", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="use the committed weights, as CI does")
    parser.add_argument(
        "--tables", action="store_true", help="train nothing; measure what is trained and print the tables"
    )
    parser.add_argument("--lora-x", action="store_true", help="only LoRA-X, on the transformer")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # for small matrices a second thread costs more than it saves
    warnings.filterwarnings("ignore", message="Mismatch dtype")  # bfloat16 with float32 norms is intended
    started = time.monotonic()
    if arguments.lora_x:
        run_lora_x(train=not arguments.tables)
        return
    results = run_quick() if arguments.quick else run_whole(train=not arguments.tables)
    promises = tables.promises(results)
    print(json.dumps({"quick": arguments.quick, "seconds": round(time.monotonic() - started), "promises": promises}))
    if broken := [promise for promise, holds in promises.items() if not holds]:
        sys.exit("Broken: " + "; ".join(broken))


def run_quick() -> Results:
    """Measures the candidates of the main tables on the transformer's drifted and pruned children, with one seed."""
    store = committed.committed_store(FLUX)
    points_by_lora = {
        lora: {
            target: [
                {
                    "baseline": measurement.baseline(),
                    **{candidate.name: measurement.measure(candidate) for candidate in MAIN},
                }
            ]
            for target in ("drifted", "pruned")
            for measurement in (Measurement(store, lora, target, 0),)
        }
        for lora in STYLES
    }
    results = Results({FLUX.name: points_by_lora})
    for lora in STYLES:
        _show(f"Recovered fraction, {lora}", tables.methods(results, FLUX.name, lora))
    _show("Strength picked by the score", tables.picks(results)[0])
    return results


def run_lora_x(*, train: bool = True) -> None:
    """Trains and measures LoRA-X on the transformer; without training, makes the tables of the committed points."""
    results = FOLDER / "results_lora_x"
    if train:
        store = committed.stores(prepare(FOLDER, committed.VAE), FOLDER)[1]
        lora_x.train(store, SEEDS)
    else:
        store = committed.committed_store(FLUX)
        committed.unpack_points(results)
    for title, text in lora_x.Study(store, SEEDS, results).sections():
        _show(title, text)


def run_whole(*, train: bool) -> Results:
    """Measures every family, LoRA, target and seed."""
    latents = prepare(FOLDER, committed.VAE)
    stores = committed.stores(latents, FOLDER)
    if train:
        for store in stores:
            _train(store)
    results = Results({store.family.name: _measure(store) for store in stores})
    for title, text in tables.sections(results):
        _show(title, text)
    _show("A LoRA of one subject: loss on its held-out drawings, by seed", _subject_table(stores[1]))
    run_lora_x(train=train)
    _draw_sheets(stores, latents)
    return results


def _train(store: ModelStore) -> None:
    """Trains everything that is missing, the main tables' LoRAs first."""
    for seed in SEEDS:
        for base in ("A", *RELATED, "other"):
            for lora in STYLES:
                store.lora(lora, base, seed)
    for lora in RANKS:
        for base in ("A", "drifted", "far", "pruned"):
            store.lora(lora, base, 0)
    if store.family.name == "flux":
        for seed in SEEDS:
            for base in ("A", "drifted", "far", "pruned"):
                store.lora(SUBJECT, base, seed)
            for lora in STYLES:  # for benchmarks/refine: no layer can be transferred to another width
                store.lora(lora, "wide", seed)


def _measure(store: ModelStore) -> dict[str, dict[str, list[dict[str, object]]]]:
    """Measures what is trained: LoRA -> target -> points by seed."""
    points_by_lora: dict[str, dict[str, list[dict[str, object]]]] = {}
    for lora in (*STYLES, *RANKS):
        for target in (*RELATED, "other"):
            for seed in SEEDS:
                candidates = CANDIDATES if seed in ABLATED[store.family.name] else MAIN
                point = points(Measurement(store, lora, target, seed), candidates, FOLDER / "results")
                if point:
                    points_by_lora.setdefault(lora, {}).setdefault(target, []).append(point)
    return points_by_lora


def _subject_table(store: ModelStore) -> str:
    """A table of losses, not of shares: a LoRA trained on the target gains almost nothing on drawings it never saw."""
    candidates = [candidate for candidate in CANDIDATES if candidate.name in ("copy", tables.DEFAULT)]
    rows: list[list[str]] = []
    for target in ("drifted", "far", "pruned"):
        every_seed = [
            points(Measurement(store, SUBJECT, target, seed), candidates, FOLDER / "results") for seed in SEEDS
        ]
        measured = [point for point in every_seed if point]
        losses = [[point["baseline"][name] for point in measured] for name in ("none", "trained")]
        losses += [[point[candidate.name]["loss"] for point in measured] for candidate in candidates]
        rows.append([target, *(" ".join(f"{sum(loss) / len(loss):.3f}" for loss in seeds) for seeds in losses)])
    return tables.table(["target", "none", "trained", *(candidate.name for candidate in candidates)], rows)


def _draw_sheets(stores: Sequence[ModelStore], latents: Latents) -> None:
    """Writes contact sheets of the first seed, and prints the style network's figures on the drawings of every seed."""
    decoder, style_network = (
        autoencoder.load(committed.VAE),
        load_style_network(latents, FOLDER / "features.safetensors"),
    )
    for store in stores:
        seeds = ABLATED[store.family.name]
        for lora in STYLES:
            measurements = [Measurement(store, lora, target, seed) for target in RELATED for seed in seeds]
            measurements = [measurement for measurement in measurements if measurement.is_trained()]
            name = f"{store.family.name}, {lora}"
            _show(
                f"Style distance (lowest to highest seed); diversity: {name}",
                sheets.style_table(style_network, measurements, FOLDER / "drawn"),
            )
            first = {measurement.target: measurement for measurement in measurements if measurement.seed == 0}
            rows = {
                method: {
                    target: sheets.draw_all(measurement, FOLDER / "drawn")[method]
                    for target, measurement in first.items()
                }
                for method in sheets.SHEET
            }
            rows["real drawings"] = {target: sheets.real_drawings(measurement) for target, measurement in first.items()}
            path = FOLDER / f"sheet {name}.png".replace(", ", "_").replace(" ", "_")
            sheets.write_sheet(decoder, rows, path)
            print(f"Contact sheet: {path}", flush=True)


def _show(title: str, text: str) -> None:
    print(f"\n### {title}\n\n{text}", flush=True)


if __name__ == "__main__":
    main()
