"""Will it work? Two bases judged from a sample of their layers, in seconds, with the figures behind the word."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .delta import LowRankDelta
from .drift import compare_weights
from .layers import Base, LayerPair
from .matching import Matching, match_by_name, share_lost
from .matching.by_block import UNRELATED
from .matching.scores import spread, unit_vector
from .methods import DEFAULT
from .progress import Progress, silent

Word = Literal["works", "risky", "refuse"]

# The thresholds, each from measured pairs: benchmarks/matching/RESULTS.md, "The verdict".
RELATED = UNRELATED["weight_cosine"]  # median weight cosine: strangers stayed below 0.03, relatives above 0.34
DRIFTED = 0.97  # median weight cosine: LoRAs kept .4 to .9 of their effect at .99; at .95 no method follows the source
RISKY_LOSS = 0.45  # share left behind: a pruned child without 42 % of a LoRA's layers kept .88 of its effect
LOST = 0.9  # and where next to nothing is left; by judgement, for nothing between was measured

# Layers that stand for all, and the side of the part of each whose subspaces are compared.
_SAMPLE, _SIDE = 16, 512


@dataclass(frozen=True)
class PairFigures:
    """What a sample of matched layers shows; None where there is nothing to measure.

    weight_cosine: median, row and column means taken off; weight_cosine_least: of the least alike layer. similarity:
    mean, above chance. drift: median of ||W_t - W_s|| / ||W_s||. matched: share of the adapter's layers with a partner;
    lost: share of its ||dW||^2 on the others. drift_against_lora: median of ||(W_t - W_s) V|| / ||dW||, V the inputs
    that the adapter reads: the base's drift as the adapter meets it, in units of the adapter's own change.
    """

    sampled: int
    matched: float
    lost: float | None = None
    weight_cosine: float | None = None
    weight_cosine_least: float | None = None
    similarity: float | None = None
    drift: float | None = None
    drift_against_lora: float | None = None


@dataclass(frozen=True)
class Verdict:
    """A word, the reasons for it as sentences, and the figures that they rest on."""

    word: Word
    reasons: tuple[str, ...]
    figures: PairFigures

    def summary(self) -> str:
        """The word and its reasons in one line, for a person."""
        return f"{self.word}: {'; '.join(self.reasons)}"

    def as_json(self) -> dict[str, Any]:
        return {"word": self.word, "reasons": list(self.reasons), "figures": vars(self.figures)}


def verdict(
    source: Base,
    target: Base,
    matching: Matching,
    deltas: Mapping[str, LowRankDelta] | None = None,
    *,
    device: torch.device,
    progress: Progress = silent,
) -> Verdict:
    """Judge a pair of bases by a sample of matched layers; with the adapter's deltas, by what it changes too."""
    return judge(measure_pair(source, target, matching, deltas, device=device, progress=progress))


def judge(figures: PairFigures) -> Verdict:
    """The worst word that any figure asks for, and a sentence for each figure that has a say."""
    found = [*_matched(figures), *_related(figures), *_drifted(figures), *_against_lora(figures)]
    worst = max((_SEVERITY.index(word) for word, _ in found), default=0)
    return Verdict(_SEVERITY[worst], tuple(reason for _, reason in found), figures)


_SEVERITY: tuple[Word, ...] = ("works", "risky", "refuse")


def _matched(figures: PairFigures) -> list[tuple[Word, str]]:
    if figures.matched == 0:
        return [("refuse", "no layer of the target is like a layer of the source that the LoRA changes")]
    lost = 1 - figures.matched if figures.lost is None else figures.lost
    counted = "of its layers have" if figures.lost is None else "of the LoRA, by energy, has"
    word: Word = "refuse" if lost > LOST else "risky" if lost > RISKY_LOSS else "works"
    sentence = f"{1 - lost:.0%} {counted} a partner in the target"
    return [(word, sentence if word == "works" else f"{sentence}; the rest is left behind")]


def _related(figures: PairFigures) -> list[tuple[Word, str]]:
    cosine = figures.weight_cosine
    if cosine is None and figures.sampled > 0:
        return [("risky", "the weights of the sample are zero in one of the bases: they tell nothing")]
    if cosine is None:
        return []
    above = "" if figures.similarity is None else f", similarity above chance {figures.similarity:.2f}"
    measured = f"weight cosine {cosine:.3f}{above} (unrelated bases: 0 and 0)"
    if cosine < RELATED:
        return [("refuse", f"{measured}: the target was not made from the source, or is too far from it")]
    if cosine < DRIFTED:
        return [("risky", f"{measured}: the target has moved far from the source; expect part of the LoRA to arrive")]
    return [("works", f"{measured}: the target is a near relative of the source")]


def _drifted(figures: PairFigures) -> list[tuple[Word, str]]:
    if figures.drift is None or figures.weight_cosine is None or figures.weight_cosine < RELATED:
        return []
    return [("works", f"the target's weights differ from the source's by {figures.drift:.0%} of their norm")]


def _against_lora(figures: PairFigures) -> list[tuple[Word, str]]:
    ratio = figures.drift_against_lora
    if ratio is None or figures.weight_cosine is None or figures.weight_cosine < RELATED:
        return []
    seen = f"on the inputs that the LoRA reads, the bases differ by {ratio:.2g} times the LoRA's own change"
    if DEFAULT.drift_undone is None:
        return [("works", seen)]
    undone = f"{DEFAULT.name}, the default, undoes about {DEFAULT.drift_undone(ratio):.0%} of that"
    return [("works", f"{seen}: where no blocks or channels are missing {undone}")]


def measure_pair(
    source: Base,
    target: Base,
    matching: Matching,
    deltas: Mapping[str, LowRankDelta] | None = None,
    *,
    device: torch.device,
    progress: Progress = silent,
) -> PairFigures:
    """Read a few matched layers of both bases, spread over depth and roles; where none is matched, layers of one name,
    for the figures that a refusal rests on."""
    matching = _of_the_diffusion_model(source, matching)
    alone = (one.layer for one in matching.unpaired)
    sample = sampled_pairs(matching.pairs or match_by_name(source.layers, target.layers, alone).pairs)
    cosines: list[float | None] = []
    similarities: list[float | None] = []
    drifts: list[float | None] = []
    ratios: list[float | None] = []
    for index, pair in enumerate(sample):
        progress(index, len(sample), pair.target.name)
        ours = matching.source_weight(pair, source.read(pair.source)).to(device)
        theirs = target.read(pair.target).to(device)
        cosines.append(_product(unit_vector(ours, "weight_cosine"), unit_vector(theirs, "weight_cosine")))
        parts = (unit_vector(spread(weight, _SIDE), "subspace") for weight in (ours, theirs))
        similarities.append(_product(*parts))
        delta = _delta_on(pair, matching, deltas, ours)
        weights, taken = compare_weights(ours, theirs, delta)
        drifts.append(weights.drift)
        norm = 0.0 if delta is None else delta.norm()
        ratios.append(taken.read.norm() / norm if taken is not None and norm > 0 else None)
    progress(len(sample), len(sample), "")
    paired = {pair.source.name for pair in matching.pairs}
    total = len(paired) + len(matching.unpaired)
    known = [figure for figure in similarities if figure is not None]
    return PairFigures(
        sampled=len(sample),
        matched=len(paired) / total if total else 0.0,
        lost=share_lost(matching, _of(matching, deltas)) if deltas and _all_known(matching, deltas) else None,
        weight_cosine=_median(cosines),
        weight_cosine_least=min((figure for figure in cosines if figure is not None), default=None),
        similarity=sum(known) / len(known) if known else None,
        drift=_median(drifts),
        drift_against_lora=_median(ratios),
    )


def _of_the_diffusion_model(source: Base, matching: Matching) -> Matching:
    """The layers that tell: strangers often share a text encoder to the last bit. Where only that is asked for, it."""
    pairs = tuple(pair for pair in matching.pairs if not pair.source.text_encoder)
    names = {name for name, layer in source.layers.items() if not layer.text_encoder}
    unpaired = tuple(one for one in matching.unpaired if one.layer in names)
    return Matching(pairs, unpaired, matching.channels) if pairs or unpaired else matching


def _of(matching: Matching, deltas: Mapping[str, LowRankDelta]) -> dict[str, LowRankDelta]:
    wanted = _wanted(matching)
    return {name: delta for name, delta in deltas.items() if name in wanted}


def _wanted(matching: Matching) -> set[str]:
    return {pair.source.name for pair in matching.pairs} | {one.layer for one in matching.unpaired}


def _all_known(matching: Matching, deltas: Mapping[str, LowRankDelta]) -> bool:
    """Whether every layer's delta is at hand. Those without factors (DoRA, OFT) are not: layers are counted then."""
    return _wanted(matching) <= deltas.keys()


def sampled_pairs(pairs: Sequence[LayerPair]) -> list[LayerPair]:
    """Pairs spread evenly over the model; each step is one longer, or the same role would come again and again."""
    if len(pairs) <= _SAMPLE:
        return list(pairs)
    return [pairs[(index * len(pairs) // _SAMPLE + index) % len(pairs)] for index in range(_SAMPLE)]


def _delta_on(
    pair: LayerPair, matching: Matching, deltas: Mapping[str, LowRankDelta] | None, weight: Tensor
) -> LowRankDelta | None:
    """The adapter's change of the source layer as the target's shape has it; None where it has none that fits."""
    delta = None if deltas is None else deltas.get(pair.source.name)
    if delta is None or delta.shape != pair.source.weight.matrix_shape:
        return None
    kept = matching.channels.get(pair.target.name)
    return (delta if kept is None else kept.delta(delta)).to(weight.device, torch.float32)


def _product(one: Tensor | None, other: Tensor | None) -> float | None:
    return None if one is None or other is None else float(one @ other)


def _median(figures: Sequence[float | None]) -> float | None:
    known = sorted(figure for figure in figures if figure is not None)
    return known[len(known) // 2] if known else None
