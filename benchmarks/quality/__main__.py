"""`python3 run.py bench quality [--quick | --tables]`: how much of a LoRA arrives on another base, by every method.

The whole run fetches the drawings, trains two families of bases and their LoRAs, less what is committed (about four
hours of one core; it can be stopped and goes on where it was; kept in .run/bench_quality), measures and prints the
tables of RESULTS.md. --tables measures what is missing of what is trained. --quick: the committed weights, two minutes.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Sequence

import torch

from dev.paths import RUN

from . import autoencoder, committed, sheets, tables
from .bases import Workshop
from .candidates import CANDIDATES
from .families import FLUX
from .features import eye
from .figures import recovered
from .latents import Latents, prepare
from .points import Errand, points
from .tables import RELATED, Results

FOLDER = RUN / "bench_quality"
SEEDS = (0, 1, 2)
STYLES = ("line 16", "3d 16")
CHAINS = (("near", "drifted"), ("drifted", "far"), ("near", "turbo"), ("drifted", "pruned"))
# Seeds on which the ablations are measured and drawings made; a pass of the UNet takes twice as long.
ABLATED = {"flux": SEEDS, "unet": SEEDS[:1]}
IN_SHORT = {*tables.MAIN, *tables.STRENGTHS, "copy, same names", "restore_both everywhere", "random, equal norm"}
MAIN = tuple(one for one in CANDIDATES if one.name in IN_SHORT)
RANKS, SUBJECT = ("line 4", "line 64"), "robot 4"


def main() -> None:
    parser = argparse.ArgumentParser(prog="run.py bench quality", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="from the committed weights; what CI runs")
    parser.add_argument("--tables", action="store_true", help="train nothing: measure what is there, print the tables")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # small matrices: a second thread costs more than it gives
    warnings.filterwarnings("ignore", message="Mismatch dtype")  # bfloat16 with float32 norms: meant
    started = time.monotonic()
    results = quick() if chosen.quick else whole(train=not chosen.tables)
    promised = tables.promises(results)
    print(json.dumps({"quick": chosen.quick, "seconds": round(time.monotonic() - started), "promises": promised}))
    if broken := [promise for promise, holds in promised.items() if not holds]:
        sys.exit("Broken: " + "; ".join(broken))


def quick() -> Results:
    """The transformer's drifted and pruned children, one seed, the candidates of the main tables."""
    workshop = committed.committed(FLUX)
    found = {
        lora: {
            target: [{"baseline": errand.baseline(), **{one.name: errand.measured(one) for one in MAIN}}]
            for target in ("drifted", "pruned")
            for errand in (Errand(workshop, lora, target, 0),)
        }
        for lora in STYLES
    }
    results = Results({FLUX.name: found})
    for lora in STYLES:
        _show(f"Recovered fraction, {lora}", tables.methods(results, FLUX.name, lora))
    _show("Strength picked by the score", tables.picks(results)[0])
    return results


def whole(*, train: bool) -> Results:
    """Every family, LoRA, target and seed."""
    latents = prepare(FOLDER, committed.VAE)
    workshops = committed.workshops(latents, FOLDER)
    if train:
        for workshop in workshops:
            _train(workshop)
    results = Results({workshop.family.name: _measured(workshop) for workshop in workshops})
    for title, text in tables.sections(results):
        _show(title, text)
    _show("A LoRA of one subject: loss on its held-out drawings, by seed", _subject(workshops[1]))
    _show("Chains: recovered on the last base, by way of another base and directly", _chains(workshops[1:]))
    _pictures(workshops, latents)
    return results


def _train(workshop: Workshop) -> None:
    """Everything that is missing, in an order that lets a first look be taken early."""
    for seed in SEEDS:
        for base in ("A", *RELATED, "other"):
            for lora in STYLES:
                workshop.lora(lora, base, seed)
    for lora in RANKS:
        for base in ("A", "drifted", "far", "pruned"):
            workshop.lora(lora, base, 0)
    if workshop.family.name == "flux":
        for seed in SEEDS:
            for base in ("A", "drifted", "far", "pruned"):
                workshop.lora(SUBJECT, base, seed)
            for lora in STYLES:  # for benchmarks/refine: nothing can be carried to another width
                workshop.lora(lora, "wide", seed)


def _measured(workshop: Workshop) -> dict[str, dict[str, list[dict[str, object]]]]:
    """LoRA -> target -> points by seed, of what is trained."""
    found: dict[str, dict[str, list[dict[str, object]]]] = {}
    for lora in (*STYLES, *RANKS):
        for target in (*RELATED, "other"):
            for seed in SEEDS:
                errand = Errand(workshop, lora, target, seed)
                if errand.trained():
                    some = CANDIDATES if seed in ABLATED[workshop.family.name] else MAIN
                    point = points(errand, some, FOLDER / "results")
                    found.setdefault(lora, {}).setdefault(target, []).append(point)
    return found


def _subject(workshop: Workshop) -> str:
    """Losses in place of shares: one trained on the target gains little or nothing on drawings that it never saw."""
    some = [one for one in CANDIDATES if one.name in ("copy", tables.DEFAULT)]
    rows: list[list[str]] = []
    for target in ("drifted", "far", "pruned"):
        errands = [Errand(workshop, SUBJECT, target, seed) for seed in SEEDS]
        found = [points(errand, some, FOLDER / "results") for errand in errands if errand.trained()]
        losses = [[point["baseline"][name] for point in found] for name in ("none", "trained")]
        losses += [[point[one.name]["loss"] for point in found] for one in some]
        rows.append([target, *(" ".join(f"{sum(one) / len(one):.3f}" for one in seeds) for seeds in losses)])
    return tables.table(["target", "none", "trained", *(one.name for one in some)], rows)


def _chains(workshops: Sequence[Workshop]) -> str:
    """A LoRA carried by the default to one child of A and from there to another."""
    ends = [one for one in CANDIDATES if one.name in ("copy", tables.DEFAULT)]
    rows: list[list[str]] = []
    for workshop in workshops:
        for lora in STYLES:
            for via, target in CHAINS:
                ways = [
                    [points(errand, ends, FOLDER / "results") for errand in some if errand.trained()]
                    for some in (
                        [Errand(workshop, lora, target, seed, between) for seed in SEEDS] for between in (via, None)
                    )
                ]
                figures = [str(recovered(found, one.name)) for one in ends for found in ways if found]
                rows.append([f"{workshop.family.name}, {lora}: A, {via}, {target}", *figures])
    heads = [f"{one.name}: {way}" for one in ends for way in ("by way", "directly")]
    return tables.table(["family, LoRA: chain", *heads], rows)


def _pictures(workshops: Sequence[Workshop], latents: Latents) -> None:
    """Contact sheets of the first seed, and what the style network says of the drawings of every seed."""
    decoder, seer = autoencoder.load(committed.VAE), eye(latents, FOLDER / "features.safetensors")
    for workshop in workshops:
        seeds = ABLATED[workshop.family.name]
        for lora in STYLES:
            errands = [Errand(workshop, lora, target, seed) for target in RELATED for seed in seeds]
            errands = [errand for errand in errands if errand.trained()]
            name = f"{workshop.family.name}, {lora}"
            _show(
                f"Style distance (lowest to highest seed); diversity: {name}",
                sheets.looks(seer, errands, FOLDER / "drawn"),
            )
            first = {errand.target: errand for errand in errands if errand.seed == 0}
            rows = {
                method: {target: sheets.drawn(errand, FOLDER / "drawn")[method] for target, errand in first.items()}
                for method in sheets.SHEET
            }
            rows["real drawings"] = {target: sheets.real(errand) for target, errand in first.items()}
            path = FOLDER / f"sheet {name}.png".replace(", ", "_").replace(" ", "_")
            sheets.sheet(decoder, rows, path)
            print(f"Contact sheet: {path}", flush=True)


def _show(title: str, text: str) -> None:
    print(f"\n### {title}\n\n{text}", flush=True)


if __name__ == "__main__":
    main()
