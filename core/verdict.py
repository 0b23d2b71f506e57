"""Judges in seconds whether a transfer between two bases can work, from a sample of their layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .delta import LowRankDelta
from .drift import compare_weights
from .layers import Base, LayerPair
from .matching import Matching, match_by_name, share_lost
from .matching.scores import MEASURES, sample_evenly, unit_vector
from .methods import DEFAULT
from .progress import Progress, ignore_progress

Word = Literal["works", "risky", "refuse"]

# The thresholds, from measured pairs: benchmarks/matching/RESULTS.md, "The verdict".
RELATED = MEASURES[
    "weight_cosine"
].floor  # median weight cosine: unrelated bases stayed below 0.03, relatives above 0.34
DRIFTED = 0.97  # median weight cosine: LoRAs kept .4 to .9 of their effect at .99; at .95 no method follows the source
RISKY_LOSS = 0.1  # lost share of the LoRA: targets that lost .37 to .40 kept .66 to .79 of the effect, with no loss .9
LOST = 0.9  # lost share above which a transfer is refused: a guess, because nothing between 0.4 and 1 was measured

# The number of sampled layers, and the side of the part of each whose subspaces are compared.
_SAMPLE, _SIDE = 16, 256


@dataclass(frozen=True)
class PairFigures:
    """The figures of a sample of matched layers; None where there is nothing to measure.

    sampled: number of layers. matched: share of the adapter's layers with a partner. lost: share of its ||dW||^2 on
    layers without a partner. weight_cosine: median, without row and column means. weight_cosine_least: the smallest.
    similarity: mean above chance. drift: median of ||W_t - W_s|| / ||W_s||. drift_against_lora: median of
    ||(W_t - W_s) V|| / ||dW|| with V an orthonormal basis of the inputs that the adapter reads: the base's drift on
    those inputs, in units of the adapter's own change.
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
    """Whether a transfer can work, the reasons in words, and the figures behind them. severities: the word that each
    reason calls for; the verdict is the most severe."""

    word: Word
    reasons: tuple[str, ...]
    figures: PairFigures
    severities: tuple[Word, ...] = ()

    def summary(self) -> str:
        """The verdict and its reasons in one line."""
        return f"{self.word}: {'; '.join(self.reasons)}"

    def as_json(self) -> dict[str, Any]:
        return {"word": self.word, "reasons": list(self.reasons), "figures": vars(self.figures)}


def judge_bases(
    source: Base,
    target: Base,
    matching: Matching,
    deltas: Mapping[str, LowRankDelta] | None = None,
    *,
    device: torch.device,
    progress: Progress = ignore_progress,
) -> Verdict:
    """Judge two bases by a sample of matched layers, and by what the adapter changes if its deltas are given.

    deltas: by source layer, (m, n) each. device: where the sample is compared.
    """
    return judge(measure_pair(source, target, matching, deltas, device=device, progress=progress))


def judge(figures: PairFigures) -> Verdict:
    """Turn figures into a verdict: the most severe word that any figure calls for, with a reason for each figure."""
    judgements: list[tuple[Word, str]] = _judge_matching(figures)
    if figures.matched == 0 or judgements[0][0] != "refuse":  # a few layers that match say nothing of all the others
        judgements += [*_judge_relation(figures), *_describe_drift(figures), *_describe_drift_against_lora(figures)]
    severities: tuple[Word, ...] = tuple(word for word, _ in judgements)
    return Verdict(most_severe(*severities), tuple(reason for _, reason in judgements), figures, severities)


_SEVERITY: tuple[Word, ...] = ("works", "risky", "refuse")


def most_severe(*words: Word) -> Word:
    return _SEVERITY[max((_SEVERITY.index(word) for word in words), default=0)]


def judge_loss(lost: float) -> Word:
    """The word for the share of the LoRA that is lost, in [0, 1]."""
    return "refuse" if lost > LOST else "risky" if lost > RISKY_LOSS else "works"


def _judge_matching(figures: PairFigures) -> list[tuple[Word, str]]:
    if figures.matched == 0:
        layers = "no layer" if figures.lost is None else "no layer that the LoRA changes"
        return [("refuse", f"{layers} has a partner in the target")]
    lost = 1 - figures.matched if figures.lost is None else figures.lost
    counted = "of the layers have" if figures.lost is None else "of the LoRA's energy has"
    rest = "" if lost < 0.005 else "; the rest is lost"
    return [(judge_loss(lost), f"{1 - lost:.0%} {counted} a partner in the target{rest}")]


def _judge_relation(figures: PairFigures) -> list[tuple[Word, str]]:
    cosine = figures.weight_cosine
    if cosine is None and figures.sampled > 0:
        return [("risky", "the sampled weights are zero in one of the bases, so they show nothing")]
    if cosine is None:
        return []
    above = "" if figures.similarity is None else f", similarity above chance {figures.similarity:.2f}"
    measured = f"weight cosine {cosine:.3f}{above} (unrelated bases: 0 and 0)"
    if cosine < RELATED:
        return [("refuse", f"{measured}: the target was not made from the source, or changed too much since")]
    if cosine < DRIFTED:
        expected = "expect only a part of the LoRA's effect"
        return [("risky", f"{measured}: the target has drifted far from the source; {expected}")]
    return [("works", f"{measured}: the target is a close relative of the source")]


def _describe_drift(figures: PairFigures) -> list[tuple[Word, str]]:
    if figures.drift is None or figures.weight_cosine is None or figures.weight_cosine < RELATED:
        return []
    return [("works", f"the target's weights differ from the source's by {figures.drift:.0%} of their norm")]


def _describe_drift_against_lora(figures: PairFigures) -> list[tuple[Word, str]]:
    ratio = figures.drift_against_lora
    if ratio is None or figures.weight_cosine is None or figures.weight_cosine < RELATED:
        return []
    measured = f"on the inputs that the LoRA reads, the bases differ by {ratio:.2g} times the LoRA's own change"
    if DEFAULT.drift_undone is None:
        return [("works", measured)]
    undone = f"{DEFAULT.name}, the default, undoes about {DEFAULT.drift_undone(ratio):.0%} of that"
    return [("works", f"{measured}; where no blocks or channels are missing, {undone}")]


def measure_pair(
    source: Base,
    target: Base,
    matching: Matching,
    deltas: Mapping[str, LowRankDelta] | None = None,
    *,
    device: torch.device,
    progress: Progress = ignore_progress,
) -> PairFigures:
    """Measure a few matched layers of both bases, spread over depth and roles.

    If no layers match, layers of the same name are measured, so that a refusal shows figures.
    """
    matching = without_text_encoders(source, matching)
    unpaired = (skipped.layer for skipped in matching.unpaired)
    sample = sample_pairs(matching.pairs or match_by_name(source.layers, target.layers, unpaired).pairs)
    cosines: list[float | None] = []
    similarities: list[float | None] = []
    drifts: list[float | None] = []
    ratios: list[float | None] = []
    for index, pair in enumerate(sample):
        progress(index, len(sample), pair.target.name)
        source_weight = matching.source_weight(pair, source.read(pair.source)).to(device)
        target_weight = target.read(pair.target).to(device)
        weights = source_weight, target_weight
        cosines.append(_inner_product(*(unit_vector(weight, "weight_cosine") for weight in weights)))
        parts = (unit_vector(sample_evenly(weight, _SIDE), "subspace") for weight in weights)
        similarities.append(_inner_product(*parts))
        delta = _delta_on(pair, matching, deltas, source_weight)
        layer_figures, drift = compare_weights(*weights, delta)
        drifts.append(layer_figures.drift)
        norm = 0.0 if delta is None else delta.norm()
        ratios.append(drift.read.norm() / norm if drift is not None and norm > 0 else None)
    progress(len(sample), len(sample), "")
    paired = {pair.source.name for pair in matching.pairs}
    total = len(paired) + len(matching.unpaired)
    known = [figure for figure in similarities if figure is not None]
    return PairFigures(
        sampled=len(sample),
        matched=len(paired) / total if total else 0.0,
        lost=share_lost(matching, _requested(matching, deltas)) if deltas and _all_known(matching, deltas) else None,
        weight_cosine=_median(cosines),
        weight_cosine_least=min((figure for figure in cosines if figure is not None), default=None),
        similarity=sum(known) / len(known) if known else None,
        drift=_median(drifts),
        drift_against_lora=_median(ratios),
    )


def without_text_encoders(source: Base, matching: Matching) -> Matching:
    """The diffusion model's layers only: unrelated models often share a text encoder to the last bit. An adapter that
    changes nothing but text encoders keeps them."""
    pairs = tuple(pair for pair in matching.pairs if not pair.source.text_encoder)
    names = {name for name, layer in source.layers.items() if not layer.text_encoder}
    unpaired = tuple(skipped for skipped in matching.unpaired if skipped.layer in names)
    return Matching(pairs, unpaired, matching.channels) if pairs or unpaired else matching


def _requested(matching: Matching, deltas: Mapping[str, LowRankDelta]) -> dict[str, LowRankDelta]:
    names = _requested_names(matching)
    return {name: delta for name, delta in deltas.items() if name in names}


def _requested_names(matching: Matching) -> set[str]:
    return {pair.source.name for pair in matching.pairs} | {skipped.layer for skipped in matching.unpaired}


def _all_known(matching: Matching, deltas: Mapping[str, LowRankDelta]) -> bool:
    """Whether every requested layer has a delta. Kinds without factors (DoRA, OFT) have none."""
    return _requested_names(matching) <= deltas.keys()


def sample_pairs(pairs: Sequence[LayerPair]) -> list[LayerPair]:
    """Choose pairs that are spread evenly over the model. The extra index in each step changes the role, which would
    otherwise be the same every time."""
    if len(pairs) <= _SAMPLE:
        return list(pairs)
    return [pairs[(index * len(pairs) // _SAMPLE + index) % len(pairs)] for index in range(_SAMPLE)]


def _delta_on(
    pair: LayerPair, matching: Matching, deltas: Mapping[str, LowRankDelta] | None, weight: Tensor
) -> LowRankDelta | None:
    """The adapter's delta of the source layer, cut to the target's shape; None if it has none of that shape."""
    delta = None if deltas is None else deltas.get(pair.source.name)
    if delta is None or delta.shape != pair.source.weight.matrix_shape:
        return None
    channels = matching.channels.get(pair.target.name)
    return (delta if channels is None else channels.delta(delta)).to(weight.device, torch.float32)


def _inner_product(first: Tensor | None, second: Tensor | None) -> float | None:
    return None if first is None or second is None else float(first @ second)


def _median(figures: Sequence[float | None]) -> float | None:
    known = sorted(figure for figure in figures if figure is not None)
    return known[len(known) // 2] if known else None
