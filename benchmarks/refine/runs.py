"""The runs that are measured, and the pairs that they are measured on."""

from collections.abc import Iterator, Sequence

from core.refine.loop import RefineSettings

from ..quality.bases import ModelStore
from ..quality.tables import RELATED
from .pairs import Pair, Run

STYLES = ("line 16", "3d 16")
SEEDS = (0, 1, 2)
UNRELATED = ("other", "wide")

REFINED = Run("refined")
DIFFERENCES = Run("differences", RefineSettings(match="differences"))
LONG = Run("240 steps", RefineSettings(steps=240, checks=12))
MAIN = (REFINED, DIFFERENCES)

STEPS = tuple(Run(f"{steps} steps", RefineSettings(steps=steps)) for steps in (20, 40, 160))
SAMPLINGS = tuple(Run(f"{count} samplings", samplings=count) for count in (8, 16, 32, 128))
PROMPTS = tuple(Run(f"{count} prompts", prompts=count) for count in (4, 16))
STARTS = (
    Run("from copy", start="copy"),
    Run("from prolora 0.5", start="prolora 0.5"),
    Run("from zeros", start="zeros"),
)
RANKS = tuple(Run(f"from zeros, rank {rank}", RefineSettings(rank=rank), start="zeros") for rank in (4, 64))
RATES = tuple(Run(f"rate {rate:g}", RefineSettings(rate=rate)) for rate in (0.025, 0.1))
PICTURES = Run("through pictures", pictures=True)
ABLATIONS = (*STEPS, LONG, *SAMPLINGS, *PROMPTS, *STARTS, *RANKS, *RATES, PICTURES)
ABLATED = ("drifted", "pruned", "wide")  # of the transformer, first seed


def pairs(stores: Sequence[ModelStore]) -> Iterator[tuple[Pair, tuple[Run, ...]]]:
    """Yields every pair whose models are trained, with its runs. Pairs that share a teacher set follow each other."""
    for source in stores:
        for lora in STYLES:
            for seed in SEEDS:
                for target in stores:
                    bases = (*RELATED, *UNRELATED) if target is source else ("A",)
                    for base in bases:
                        pair = Pair(source, target, lora, base, seed)
                        if pair.is_trained():
                            yield pair, (*MAIN, LONG) if pair.unrelated else MAIN


def ablation_pairs(store: ModelStore) -> Iterator[tuple[Pair, tuple[Run, ...]]]:
    """Yields the ablations run by run, so that pairs that share a teacher set follow each other."""
    for lora in STYLES:
        for run in ABLATIONS:
            for base in ABLATED:
                pair = Pair(store, store, lora, base, 0)
                if pair.is_trained() and (run.start in ("default", "zeros") or not pair.unrelated):
                    yield pair, (run,)
