"""Measures whether the verdict's figures separate relatives from strangers, and what a transfer achieves on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from core.delta import LowRankDelta
from core.drift import compare_weights
from core.layers import Base
from core.matching import map_blocks, match_by_blocks, match_by_name
from core.matching.by_block import floor_of
from core.matching.scores import unit_vector
from core.memory_base import MemoryBase
from core.methods import LayerPairBases, method_named
from core.verdict import judge, measure_pair

from ..memory_bases import make_base
from . import realcugan
from .denoiser import noise_drawings, predict_with_lora, read_or_train_lora
from .families import DEPTHS, Family

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Pair:
    """Two bases. related: one was made from the other, or both from a third. make: the kind of the pair."""

    source: Base
    target: Base
    related: bool
    make: str


def trained_pairs(families: Sequence[Family]) -> list[Pair]:
    """Related pairs: each base with its children. Strangers: two bases, and a base with another base's child."""
    bases = [make_base(f"base {index}", family.base) for index, family in enumerate(families)]
    children = [
        {course: make_base(f"{course} child of {index}", weights) for course, weights in family.children.items()}
        for index, family in enumerate(families)
    ]
    related = [
        Pair(base, child, True, course)
        for base, own_children in zip(bases, children, strict=True)
        for course, child in own_children.items()
    ]
    strangers = [Pair(source, target, False, "other seed") for source, target in combinations(bases, 2)]
    strangers += [
        Pair(base, child, False, "other seed's child")
        for index, base in enumerate(bases)
        for child in list(children[(index + 1) % len(bases)].values())[1:]
        if len(bases) > 1
    ]
    return [*related, *strangers]


def cugan_pairs(folder: Path) -> list[Pair]:
    """Pairs of RealCUGAN's models of equal scale. Two `se` or two `pro` are relatives, `se` and `pro` are strangers."""
    pairs: list[Pair] = []
    for (source_name, source), (target_name, target) in combinations(realcugan.models(folder).items(), 2):
        makes, scales = (
            {name.split("/")[0] for name in (source_name, target_name)},
            {name.split("up")[1][:2] for name in (source_name, target_name)},
        )
        if len(scales) == 1 and "nose" not in makes:  # "nose" has other layers
            pairs.append(Pair(source, target, len(makes) == 1, f"RealCUGAN {' and '.join(sorted(makes))}"))
    return pairs


def judge_pairs(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """One line for each pair: its figures, and the verdict with layers matched by name and by block."""
    lines: list[dict[str, Any]] = []
    for pair in pairs:
        by_name = match_by_name(pair.source.layers, pair.target.layers, pair.source.layers)
        figures = measure_pair(pair.source, pair.target, by_name, device=CPU)
        block_map = map_blocks(pair.source, pair.target, device=CPU)
        by_block = match_by_blocks(pair.source.layers, pair.target.layers, block_map, pair.source.layers)
        blockwise = measure_pair(pair.source, pair.target, by_block, device=CPU)
        lines.append(
            {
                "source": pair.source.name,
                "target": pair.target.name,
                "make": pair.make,
                "related": pair.related,
                "cosine": figures.weight_cosine,
                "least": figures.weight_cosine_least,
                "similarity": figures.similarity,
                "drift": figures.drift,
                "by name": judge(figures).word,
                "by block": judge(blockwise).word,
                "matched": blockwise.matched,
            }
        )
    return lines


def match_depths(
    families: Sequence[Family], children: Mapping[tuple[int, str], Mapping[str, Tensor]]
) -> list[dict[str, Any]]:
    """One line for each trained child of another depth: the share of blocks matched to their true parent."""
    lines: list[dict[str, Any]] = []
    for (index, name), weights in children.items():
        source, target = make_base(f"base {index}", families[index].base), make_base(name, weights)
        blocks = [f"blocks.{position}" for position in range(len(DEPTHS[name]))]
        origins = dict(zip(blocks, (f"blocks.{origin}" for origin in DEPTHS[name]), strict=True))
        matches = {
            match.target: match for match in map_blocks(source, target, device=CPU).matches if match.target in origins
        }
        scores = [match.score or 0.0 for match in matches.values()]
        lines.append(
            {
                "make": name,
                "right": sum(match.source == origins[block] for block, match in matches.items()) / len(origins),
                "by name": sum(block == origin for block, origin in origins.items()) / len(origins),
                "score": sum(scores) / len(scores),
                "runner-up": max(match.runner_up_score or 0.0 for match in matches.values()),
            }
        )
    return lines


def auroc(lines: Sequence[Mapping[str, Any]], figure: str) -> float:
    """The probability that a relative scores above a stranger."""
    relatives = [line[figure] for line in lines if line["related"]]
    strangers = [line[figure] for line in lines if not line["related"]]
    wins = sum((relative > stranger) + 0.5 * (relative == stranger) for relative in relatives for stranger in strangers)
    return wins / (len(relatives) * len(strangers))


def find_extremes(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """One line for each measure: the highest score of a single layer of strangers, and the largest share of a floor."""
    lines = {measure: {"measure": measure, "highest": 0.0, "share of the floor": 0.0} for measure in _MEASURES}
    for pair in (pair for pair in pairs if not pair.related):
        matching = match_by_name(pair.source.layers, pair.target.layers, pair.source.layers)
        for layers in matching.pairs:
            weights = pair.source.read(layers.source), pair.target.read(layers.target)
            for measure in _MEASURES:
                score = _score(weights, measure)
                line = lines[measure]
                line["highest"] = max(line["highest"], score)
                if measure != "plain cosine":
                    line["share of the floor"] = max(
                        line["share of the floor"], score / floor_of([layers.source], measure)
                    )
    return list(lines.values())


_MEASURES: tuple[Literal["plain cosine", "weight_cosine", "subspace"], ...] = (
    "plain cosine",
    "weight_cosine",
    "subspace",
)


def _score(weights: tuple[Tensor, Tensor], measure: Literal["plain cosine", "weight_cosine", "subspace"]) -> float:
    if measure == "plain cosine":
        return float(torch.nn.functional.cosine_similarity(*(weight.flatten() for weight in weights), dim=0))
    source, target = (unit_vector(weight, measure) for weight in weights)
    return 0.0 if source is None or target is None else float(source @ target)


def transfer_loras(families: Sequence[Family], folder: Path) -> list[dict[str, Any]]:
    """Transfers a LoRA from each base to its children and to a stranger, and measures it on the same noised drawings.

    The scores are those of core/check: G, the likeness of the changes in the output, and the gap closed on the way
    from the bare target to the source with the LoRA."""
    lines: list[dict[str, Any]] = []
    for index, family in enumerate(families):
        lora = read_or_train_lora(family.base, "rings", folder / f"lora{index}.pt")
        source = make_base(f"base {index}", family.base)
        stranger = families[(index + 1) % len(families)].base
        for make, weights in {**family.children, "other seed": stranger}.items():
            target = make_base(make, weights)
            deltas = {name: LowRankDelta(up, down) for name, (up, down) in lora.items()}
            matching = match_by_name(source.layers, target.layers, source.layers)
            figures = measure_pair(source, target, matching, deltas, device=CPU)
            scores: dict[str, float] = {}
            for name in ("copy", "restore", "restore_both"):
                scores |= _score_transfer(source, target, deltas, name)
            lines.append(
                {"make": make, "cosine": figures.weight_cosine, "similarity": figures.similarity,
                 "drift": figures.drift, "drift against LoRA": figures.drift_against_lora, **scores}
            )  # fmt: skip
    return lines


def _score_transfer(
    source: MemoryBase, target: MemoryBase, deltas: Mapping[str, LowRankDelta], method: str
) -> dict[str, float]:
    x, level, _ = noise_drawings("rings", 256, torch.Generator().manual_seed(77))
    transferred: dict[str, LowRankDelta] = {}
    for name, delta in deltas.items():
        weights = source.read(source.layers[name]), target.read(target.layers[name])
        _, drift = compare_weights(*weights, delta)
        transferred[name] = method_named(method).function(delta, LayerPairBases(drift=drift)).delta
    source_bare, source_with = (_predict(source, changes, x, level) for changes in ({}, deltas))
    target_bare, target_with = (_predict(target, changes, x, level) for changes in ({}, transferred))
    error = _distance(target_with - target_bare, source_with - source_bare) / _distance(source_with, source_bare)
    return {
        f"{method} G": 1 - error,
        f"{method} closed": 1 - _distance(target_with, source_with) / _distance(target_bare, source_with),
    }


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().sum())


def _predict(base: MemoryBase, deltas: Mapping[str, LowRankDelta], x: Tensor, level: Tensor) -> Tensor:
    factors = {name: (delta.up, delta.down) for name, delta in deltas.items()}
    with torch.no_grad():
        return predict_with_lora(base.weights, factors, x, level)


def summarise_by_make(lines: Sequence[Mapping[str, Any]], *columns: str) -> list[dict[str, Any]]:
    """One line for each make of pair: smallest, mean and largest value of the figures."""
    makes = dict.fromkeys(line["make"] for line in lines)
    table: list[dict[str, Any]] = []
    for make in makes:
        of_make = [line for line in lines if line["make"] == make]
        row: dict[str, Any] = {"make": make, "pairs": len(of_make)}
        for column in columns:
            figures = [line[column] for line in of_make if line[column] is not None]
            row[column] = f"{min(figures):.3f} {sum(figures) / len(figures):.3f} {max(figures):.3f}" if figures else "-"
        table.append(row)
    return table
