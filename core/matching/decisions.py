"""What was decided for each block, in words and with the figures behind it."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .block_map import BlockMatch, LeftAlone
from .blocks import Block, Kind
from .scores import CALLED, Measure


@dataclass(frozen=True)
class ScoredKind:
    """Blocks of one make with their scores (sources, targets), and the floor that they must pass."""

    kind: Kind
    scores: Tensor
    floor: float


def matches_of(one: ScoredKind, taken: Sequence[int | None], measure: Measure) -> list[BlockMatch]:
    """What each target block got: `taken` is the source's place in its kind, None for none."""
    return [
        _unfed(one, column, measure) if index is None else _fed(one, column, index, measure)
        for column, index in enumerate(taken)
    ]


def left_alone(one: ScoredKind, taken: Sequence[int | None], measure: Measure) -> list[LeftAlone]:
    """The source blocks that nothing took."""
    found: list[LeftAlone] = []
    for row, block in enumerate(one.kind.sources):
        if row not in taken:
            ranked = _ranked(one.scores[row], one.kind.targets)
            best, score = ranked[0] if ranked else (None, None)
            takers = {target.name: index for target, index in zip(one.kind.targets, taken, strict=True)}
            taker = None if best is None else takers[best]
            instead = _OUT_OF_PLACE if taker is None else f"which takes {one.kind.sources[taker].name}"
            found.append(LeftAlone(block.name, _why_none(one, ranked, measure, "target", instead), best, score))
    return found


_OUT_OF_PLACE = "but it feeds another block, or the order of the blocks stands against it"


def _unfed(one: ScoredKind, column: int, measure: Measure) -> BlockMatch:
    ranked = _ranked(one.scores[:, column], one.kind.sources)
    why = _why_none(one, ranked, measure, "source", _OUT_OF_PLACE)
    return BlockMatch(one.kind.targets[column].name, None, why, None, *(ranked[0] if ranked else (None, None)))


def _fed(one: ScoredKind, column: int, index: int, measure: Measure) -> BlockMatch:
    target, source = one.kind.targets[column].name, one.kind.sources[index].name
    ranked = _ranked(one.scores[:, column], one.kind.sources)
    score = dict(ranked)[source]
    words = f"{CALLED[measure]} {score:.3f}"
    others = [pair for pair in ranked if pair[0] != source]
    if not others:
        return BlockMatch(target, source, f"{words}, the only block of its make", score)
    best, figure = others[0]
    words += f", the next best {figure:.3f}"
    if figure > score:
        words += " (the same name decides)" if source == target else " (the order of the blocks decides)"
    return BlockMatch(target, source, words, score, best, figure)


def _ranked(scores: Tensor, blocks: Sequence[Block]) -> list[tuple[str, float]]:
    """Names and scores, the best first; weights that show nothing are left out."""
    known = [(block.name, float(score)) for block, score in zip(blocks, scores, strict=True) if not score.isnan()]
    return sorted(known, key=lambda pair: -pair[1])


def _why_none(one: ScoredKind, ranked: Sequence[tuple[str, float]], measure: Measure, side: str, instead: str) -> str:
    """`side` is that of the blocks it was held against; `instead`: why the best of them is not taken though related."""
    if not (one.kind.sources and one.kind.targets):
        return f"the {side} base has no block of this make (roles and shapes)"
    if not ranked:
        return "its weights are zero, or no role is common to all blocks of its make"
    name, score = ranked[0]
    figure = f"the most alike is {name} with {CALLED[measure]} {score:.3f}"
    if score <= one.floor:
        return f"{figure}, no better than unrelated weights ({one.floor:.2f})"
    return f"{figure}, {instead}"
