"""Describes what matching decided for each block, in words and with figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .block_map import BlockMatch, UnusedBlock
from .blocks import Block, Kind
from .scores import MEASURES


@dataclass(frozen=True)
class ScoredKind:
    """Blocks of one kind with their scores (sources, targets), and the floor that a score must pass.

    sampled: the scores are from a few rows of each block, which were enough to confirm the names (namesakes).
    """

    kind: Kind
    scores: Tensor
    floor: float
    sampled: bool = False


def describe_matches(scored: ScoredKind, assigned: Sequence[int | None], measure: str) -> list[BlockMatch]:
    """The match of each target block. assigned: for each target the index of its source in the kind, or None."""
    return [
        _match_without_source(scored, column, measure) if row is None else _match_with(scored, column, row, measure)
        for column, row in enumerate(assigned)
    ]


def describe_unused(scored: ScoredKind, assigned: Sequence[int | None], measure: str) -> list[UnusedBlock]:
    """The source blocks that feed no target block, with the reason."""
    unused: list[UnusedBlock] = []
    source_of = {target.name: row for target, row in zip(scored.kind.targets, assigned, strict=True)}
    for row, block in enumerate(scored.kind.sources):
        if row not in assigned:
            ranked = _rank_blocks(scored.scores[row], scored.kind.targets)
            best, score = ranked[0] if ranked else (None, None)
            winner = None if best is None else source_of[best]
            instead = _OUT_OF_ORDER if winner is None else f"which {scored.kind.sources[winner].name} feeds instead"
            why = _explain_no_match(scored, ranked, measure, "target", instead)
            unused.append(UnusedBlock(block.name, why, best, score))
    return unused


_OUT_OF_ORDER = "but it feeds another block, or the order of the blocks rules it out"


def _match_without_source(scored: ScoredKind, column: int, measure: str) -> BlockMatch:
    ranked = _rank_blocks(scored.scores[:, column], scored.kind.sources)
    why = _explain_no_match(scored, ranked, measure, "source", _OUT_OF_ORDER)
    return BlockMatch(scored.kind.targets[column].name, None, why, None, *(ranked[0] if ranked else (None, None)))


def _match_with(scored: ScoredKind, column: int, row: int, measure: str) -> BlockMatch:
    target, source = scored.kind.targets[column].name, scored.kind.sources[row].name
    ranked = _rank_blocks(scored.scores[:, column], scored.kind.sources)
    score = dict(ranked)[source]
    words = f"{MEASURES[measure].label} {score:.3f}"
    others = [(name, figure) for name, figure in ranked if name != source]
    if not others:
        return BlockMatch(target, source, f"{words}, the only block of its kind", score)
    best, figure = others[0]
    words += f", the next best {figure:.3f}"
    if figure > score:
        words += " (the same name decides)" if source == target else " (the order of the blocks decides)"
    return BlockMatch(target, source, words, score, best, figure)


def _rank_blocks(scores: Tensor, blocks: Sequence[Block]) -> list[tuple[str, float]]:
    """Names and scores, best first; blocks without a score are left out."""
    known = [(block.name, float(score)) for block, score in zip(blocks, scores, strict=True) if not score.isnan()]
    return sorted(known, key=lambda pair: -pair[1])


def _explain_no_match(
    scored: ScoredKind, ranked: Sequence[tuple[str, float]], measure: str, side: str, instead: str
) -> str:
    """side: the base that the block was compared with. instead: why the best block there is not its partner although
    they are related."""
    if not (scored.kind.sources and scored.kind.targets):
        return f"the {side} base has no block of this kind (roles and shapes)"
    if not ranked:
        return "its weights are zero, or its kind has no role that all blocks share"
    name, score = ranked[0]
    figure = f"the block most like it is {name} with {MEASURES[measure].label} {score:.3f}"
    if score <= scored.floor:
        return f"{figure}, no better than unrelated weights ({scored.floor:.2f})"
    return f"{figure}, {instead}"
