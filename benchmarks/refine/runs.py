"""Which runs are made where."""

from collections.abc import Iterator, Sequence

from core.refine.loop import RefineSettings

from ..quality.bases import Workshop
from ..quality.tables import RELATED
from .pairs import Pair, Run

STYLES = ("line 16", "3d 16")
SEEDS = (0, 1, 2)
UNLIKE = ("other", "wide")

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


def pairs(workshops: Sequence[Workshop]) -> Iterator[tuple[Pair, tuple[Run, ...]]]:
    """Every pair of which all is trained, with its runs; those with one teacher set in a row."""
    for source in workshops:
        for lora in STYLES:
            for seed in SEEDS:
                for target in workshops:
                    bases = (*RELATED, *UNLIKE) if target is source else ("A",)
                    for base in bases:
                        pair = Pair(source, target, lora, base, seed)
                        if pair.trained():
                            yield pair, (*MAIN, LONG) if pair.unlike else MAIN


def ablated(workshop: Workshop) -> Iterator[tuple[Pair, tuple[Run, ...]]]:
    """Run by run, so that those with one teacher set come in a row."""
    for lora in STYLES:
        for run in ABLATIONS:
            for base in ABLATED:
                pair = Pair(workshop, workshop, lora, base, 0)
                if pair.trained() and (run.start in ("default", "zeros") or not pair.unlike):
                    yield pair, (run,)
