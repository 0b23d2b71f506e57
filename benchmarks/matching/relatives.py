"""Do the figures tell relatives from strangers, and how far does a copy get on them?"""

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

from ..kept_base import kept_base
from . import realcugan
from .denoiser import noised, trained_lora, with_lora
from .trained import DEPTHS, Family

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Pair:
    """Two bases, whether one was made from the other or both from a third, and of what make the pair is."""

    source: Base
    target: Base
    related: bool
    make: str


def trained_pairs(families: Sequence[Family]) -> list[Pair]:
    """Base to each of its children; and strangers: base to base, base to another's child."""
    bases = [kept_base(f"base {index}", family.base) for index, family in enumerate(families)]
    children = [
        {course: kept_base(f"{course} child of {index}", weights) for course, weights in family.children.items()}
        for index, family in enumerate(families)
    ]
    related = [
        Pair(base, child, True, course)
        for base, some in zip(bases, children, strict=True)
        for course, child in some.items()
    ]
    strangers = [Pair(one, other, False, "other seed") for one, other in combinations(bases, 2)]
    strangers += [
        Pair(base, child, False, "other seed's child")
        for index, base in enumerate(bases)
        for child in list(children[(index + 1) % len(bases)].values())[1:]
        if len(bases) > 1
    ]
    return [*related, *strangers]


def cugan_pairs(folder: Path) -> list[Pair]:
    """RealCUGAN's models of one scale: `se` with `se` and `pro` with `pro` are relatives, `se` with `pro` strangers."""
    found: list[Pair] = []
    for (one, source), (other, target) in combinations(realcugan.models(folder).items(), 2):
        makes, scales = (
            {name.split("/")[0] for name in (one, other)},
            {name.split("up")[1][:2] for name in (one, other)},
        )
        if len(scales) == 1 and "nose" not in makes:  # that one has other layers
            found.append(Pair(source, target, len(makes) == 1, f"RealCUGAN {' and '.join(sorted(makes))}"))
    return found


def judged(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """The verdict of each pair, with layers matched by name and by block."""
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


def depths(
    families: Sequence[Family], children: Mapping[tuple[int, str], Mapping[str, Tensor]]
) -> list[dict[str, Any]]:
    """Share of the blocks of trained children of another depth that got their true parent, by block and by name."""
    lines: list[dict[str, Any]] = []
    for (index, name), weights in children.items():
        source, target = kept_base(f"base {index}", families[index].base), kept_base(name, weights)
        blocks = [f"blocks.{place}" for place in range(len(DEPTHS[name]))]
        origins = dict(zip(blocks, (f"blocks.{origin}" for origin in DEPTHS[name]), strict=True))
        found = {
            match.target: match for match in map_blocks(source, target, device=CPU).matches if match.target in origins
        }
        scores = [match.score or 0.0 for match in found.values()]
        lines.append(
            {
                "make": name,
                "right": sum(match.source == origins[block] for block, match in found.items()) / len(origins),
                "by name": sum(block == origin for block, origin in origins.items()) / len(origins),
                "score": sum(scores) / len(scores),
                "runner-up": max(match.runner_up_score or 0.0 for match in found.values()),
            }
        )
    return lines


def auroc(lines: Sequence[Mapping[str, Any]], figure: str) -> float:
    """The chance that a relative scores above a stranger."""
    relatives = [line[figure] for line in lines if line["related"]]
    strangers = [line[figure] for line in lines if not line["related"]]
    wins = sum((one > other) + 0.5 * (one == other) for one in relatives for other in strangers)
    return wins / (len(relatives) * len(strangers))


def extremes(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """The most that a single layer of strangers scores by each measure, and the largest share of its own floor."""
    found = {measure: {"measure": measure, "highest": 0.0, "share of the floor": 0.0} for measure in _MEASURES}
    for pair in (one for one in pairs if not one.related):
        matching = match_by_name(pair.source.layers, pair.target.layers, pair.source.layers)
        for one in matching.pairs:
            weights = pair.source.read(one.source), pair.target.read(one.target)
            for measure in _MEASURES:
                score = _score(weights, measure)
                line = found[measure]
                line["highest"] = max(line["highest"], score)
                if measure != "plain cosine":
                    line["share of the floor"] = max(
                        line["share of the floor"], score / floor_of([one.source], measure)
                    )
    return list(found.values())


_MEASURES: tuple[Literal["plain cosine", "weight_cosine", "subspace"], ...] = (
    "plain cosine",
    "weight_cosine",
    "subspace",
)


def _score(weights: tuple[Tensor, Tensor], measure: Literal["plain cosine", "weight_cosine", "subspace"]) -> float:
    if measure == "plain cosine":
        return float(torch.nn.functional.cosine_similarity(*(weight.flatten() for weight in weights), dim=0))
    one, two = (unit_vector(weight, measure) for weight in weights)
    return 0.0 if one is None or two is None else float(one @ two)


def copied(families: Sequence[Family], folder: Path) -> list[dict[str, Any]]:
    """How far a LoRA gets on each child and on a stranger, on the same noised drawings: G, the share of the change that
    it makes to the model's output, and the share of the way from the bare target to the source with the LoRA that it
    closes (both as core/check has them)."""
    lines: list[dict[str, Any]] = []
    for index, family in enumerate(families):
        lora = trained_lora(family.base, "rings", folder / f"lora{index}.pt")
        source = kept_base(f"base {index}", family.base)
        stranger = families[(index + 1) % len(families)].base
        for make, weights in {**family.children, "other seed": stranger}.items():
            target = kept_base(make, weights)
            deltas = {name: LowRankDelta(up, down) for name, (up, down) in lora.items()}
            matching = match_by_name(source.layers, target.layers, source.layers)
            figures = measure_pair(source, target, matching, deltas, device=CPU)
            found: dict[str, float] = {}
            for name in ("copy", "restore", "restore_both"):
                found |= _arrived(source, target, deltas, name)
            lines.append(
                {"make": make, "cosine": figures.weight_cosine, "similarity": figures.similarity,
                 "drift": figures.drift, "drift against LoRA": figures.drift_against_lora, **found}
            )  # fmt: skip
    return lines


def _arrived(
    source: MemoryBase, target: MemoryBase, deltas: Mapping[str, LowRankDelta], method: str
) -> dict[str, float]:
    x, level, _ = noised("rings", 256, torch.Generator().manual_seed(77))
    moved: dict[str, LowRankDelta] = {}
    for name, delta in deltas.items():
        weights = source.read(source.layers[name]), target.read(target.layers[name])
        _, drift = compare_weights(*weights, delta)
        moved[name] = method_named(method).function(delta, LayerPairBases(drift=drift)).delta
    source_bare, source_with = (_answer(source, some, x, level) for some in ({}, deltas))
    bare, with_it = (_answer(target, some, x, level) for some in ({}, moved))
    kept = _distance(with_it - bare, source_with - source_bare) / _distance(source_with, source_bare)
    return {
        f"{method} G": 1 - kept,
        f"{method} closed": 1 - _distance(with_it, source_with) / _distance(bare, source_with),
    }


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).square().sum())


def _answer(base: MemoryBase, deltas: Mapping[str, LowRankDelta], x: Tensor, level: Tensor) -> Tensor:
    factors = {name: (delta.up, delta.down) for name, delta in deltas.items()}
    with torch.no_grad():
        return with_lora(base.weights, factors, x, level)


def by_make(lines: Sequence[Mapping[str, Any]], *columns: str) -> list[dict[str, Any]]:
    """Least, mean and largest of some figures for each make of pair."""
    makes = dict.fromkeys(line["make"] for line in lines)
    table: list[dict[str, Any]] = []
    for make in makes:
        some = [line for line in lines if line["make"] == make]
        row: dict[str, Any] = {"make": make, "pairs": len(some)}
        for column in columns:
            figures = [line[column] for line in some if line[column] is not None]
            row[column] = f"{min(figures):.3f} {sum(figures) / len(figures):.3f} {max(figures):.3f}" if figures else "-"
        table.append(row)
    return table
