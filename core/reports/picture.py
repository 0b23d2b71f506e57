"""The tables that the interactive picture draws: all blocks of both bases, and all layers, as compact JSON.

web/layer_picture/parse.js reads them. A text that occurs several times is stored once, in `texts`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..layers import Layer
from ..matching import block_map_by_name, blocks_of
from ..similarity import Comparison, LayerSimilarity, Measure
from .layer import LayerReport, SkippedLayer

# The columns of the table of layers. source, target, role, shape and reason are positions in `texts`, block is a
# position in `blocks`. score: the figure that the threshold applies to; chance: what unrelated layers have.
COLUMNS = (
    "block",
    "source",
    "target",
    "role",
    "shape",
    "score",
    "chance",
    "above_chance",
    "weight_cosine",
    "decision",
    "by_threshold",
    "reason",
)
_DIGITS = 4


@dataclass(frozen=True)
class BlockPair:
    """A block of the target and the source block that feeds it; None where one of the bases has no such block."""

    source: str | None
    target: str | None
    text_encoder: bool
    why: str


def pair_blocks(comparison: Comparison[Any]) -> tuple[BlockPair, ...]:
    """Every target block in the model's order. A source block without a target follows its own predecessor."""
    sides = [blocks_of(base.layers.values()) for base in (comparison.source, comparison.target)]
    sources, targets = ([block.name for block in blocks] for blocks in sides)
    text_encoder = {block.name: block.text_encoder for blocks in sides for block in blocks}
    block_map = comparison.block_map or block_map_by_name(sources, targets)
    pairs = [
        BlockPair(match.source, match.target, text_encoder.get(match.target, False), match.why)
        for match in block_map.matches
    ]
    reasons = {block.source: block.why for block in block_map.unused_blocks}
    for index, source in enumerate(sources):
        if source in reasons:
            removed = BlockPair(source, None, text_encoder[source], reasons[source])
            pairs.insert(_position_after(pairs, sources[:index]), removed)
    return tuple(pairs)


def picture_tables(
    blocks: Sequence[BlockPair], layers: Sequence[LayerReport], skipped: Sequence[SkippedLayer], measure: Measure
) -> dict[str, Any]:
    """The tables `blocks`, `layers` and `texts`. Parts of the adapter that are no layer of the source are left out."""
    texts = _Texts()
    of_source = {pair.source: index for index, pair in reversed(list(enumerate(blocks)))}
    of_target = {pair.target: index for index, pair in reversed(list(enumerate(blocks)))}
    rows: list[list[Any]] = []
    for layer in layers:
        pair, decision = layer.pair, (layer.decision, layer.by_threshold, layer.reason)
        block = of_target.get(_block_name(pair.target))
        rows.append(_row(texts, block, pair.source, pair.target, _figures(layer.similarity, measure), decision))
    for item in skipped:
        if item.source is not None:
            block = of_source.get(_block_name(item.source))
            if item.target is not None:
                block = of_target.get(_block_name(item.target))
            decision = "skipped", item.target is not None, item.reason
            rows.append(_row(texts, block, item.source, item.target, _figures(item.similarity, measure), decision))
    pairs = [[pair.source, pair.target, int(pair.text_encoder), texts.position(pair.why)] for pair in blocks]
    return {"columns": list(COLUMNS), "blocks": pairs, "layers": rows, "texts": texts.all()}


def _row(
    texts: "_Texts",
    block: int | None,
    source: Layer,
    target: Layer | None,
    figures: Sequence[float | None],
    decision: tuple[str, bool, str],
) -> list[Any]:
    """The values of COLUMNS for one layer. decision: what happened, whether by the threshold, and the reason."""
    layer, (happened, by_threshold, reason) = target or source, decision
    return [
        block,
        texts.position(source.name),
        None if target is None else texts.position(target.name),
        texts.position(layer.role),
        texts.position(" x ".join(map(str, layer.weight.shape))),
        *figures,
        happened,
        int(by_threshold),
        texts.position(reason),
    ]


def _block_name(layer: Layer) -> str:
    return layer.block or layer.name


class _Texts:
    """Texts by position, each stored once."""

    def __init__(self) -> None:
        self._positions: dict[str, int] = {}

    def position(self, text: str) -> int:
        return self._positions.setdefault(text, len(self._positions))

    def all(self) -> list[str]:
        return list(self._positions)


def _figures(similarity: LayerSimilarity | None, measure: Measure) -> list[float | None]:
    """score, chance, above_chance and weight_cosine."""
    if similarity is None:
        return [None] * 4
    cosine = similarity.weight_cosine
    if measure == "weight_cosine":
        return [_round(cosine), 0, _round(cosine), _round(cosine)]
    chances = [side.chance for side in (similarity.left, similarity.right) if side.above_chance is not None]
    chance = sum(chance for chance in chances if chance is not None) / len(chances) if chances else None
    return [_round(figure) for figure in (similarity.phi, chance, similarity.above_chance, cosine)]


def _round(figure: float | None) -> float | None:
    return None if figure is None else round(figure, _DIGITS)


def _position_after(pairs: Sequence[BlockPair], before: Sequence[str]) -> int:
    """The position behind the last of the source blocks `before` that is nearest to the end of `before`."""
    position = {pair.source: index for index, pair in enumerate(pairs)}
    return next((position[source] + 1 for source in reversed(before) if source in position), 0)
