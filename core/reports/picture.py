"""The tables that the interactive picture draws: all blocks of both bases, and all layers, as compact JSON.

web/layer_picture/parse.js reads them. A text that occurs several times is stored once, in `texts`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..layers import Layer
from ..matching import block_map_by_name, blocks_of
from ..matching.blocks import Block
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

_Decision = tuple[str, bool, str]  # what happened, whether the threshold decided, and the reason


@dataclass(frozen=True)
class BlockPair:
    """A block of the target and the source block that feeds it; None where one of the bases has no such block.

    roles: of the layers of both, in the models' order.
    """

    source: str | None
    target: str | None
    text_encoder: bool
    why: str
    roles: tuple[str, ...] = ()


def pair_blocks(comparison: Comparison[Any]) -> tuple[BlockPair, ...]:
    """Every target block in the model's order. A source block without a target follows its own predecessor."""
    sides = [blocks_of(base.layers.values()) for base in (comparison.source, comparison.target)]
    sources, targets = ({block.name: block for block in blocks} for blocks in sides)
    block_map = comparison.block_map or block_map_by_name(sources, targets)
    pairs = [
        _pair(sources.get(match.source or ""), targets.get(match.target), match.why) for match in block_map.matches
    ]
    reasons = {block.source: block.why for block in block_map.unused_blocks}
    for index, name in enumerate(sources):
        if name in reasons:
            pairs.insert(_position_after(pairs, list(sources)[:index]), _pair(sources[name], None, reasons[name]))
    return tuple(pairs)


def _pair(source: Block | None, target: Block | None, why: str) -> BlockPair:
    blocks = [block for block in (target, source) if block is not None]
    roles = dict.fromkeys(role for block in blocks for role in block.layers)
    return BlockPair(
        source=None if source is None else source.name,
        target=None if target is None else target.name,
        text_encoder=any(block.text_encoder for block in blocks),
        why=why,
        roles=tuple(roles),
    )


def picture_tables(
    blocks: Sequence[BlockPair], layers: Sequence[LayerReport], skipped: Sequence[SkippedLayer], measure: Measure
) -> dict[str, Any]:
    """The tables `blocks`, `layers` and `texts`. Parts of the adapter that are no layer of the source are left out."""
    texts = _Texts()
    of_source = {pair.source: index for index, pair in reversed(list(enumerate(blocks)))}
    of_target = {pair.target: index for index, pair in reversed(list(enumerate(blocks)))}
    rows: list[tuple[int, int, list[Any]]] = []  # block, role and the row: rows are sorted by the first two

    def add(
        block: int | None, source: Layer, target: Layer | None, figures: Sequence[float | None], decision: _Decision
    ) -> None:
        layer, row = target or source, _row(texts, block, source, target, figures, decision)
        roles = () if block is None else blocks[block].roles
        position = roles.index(layer.role) if layer.role in roles else len(roles)
        rows.append((len(blocks) if block is None else block, position, row))

    for layer in layers:
        pair, decision = layer.pair, (layer.decision, layer.by_threshold, layer.reason)
        block = of_target.get(_block_name(pair.target))
        add(block, pair.source, pair.target, _figures(layer.similarity, measure), decision)
    for item in skipped:
        if item.source is not None:
            block = of_source.get(_block_name(item.source))
            if item.target is not None:
                block = of_target.get(_block_name(item.target))
            decision = "skipped", item.target is not None, item.reason
            add(block, item.source, item.target, _figures(item.similarity, measure), decision)
    rows.sort(key=lambda entry: entry[:2])
    pairs = [[pair.source, pair.target, int(pair.text_encoder), texts.position(pair.why)] for pair in blocks]
    return {
        "columns": list(COLUMNS),
        "blocks": pairs,
        "layers": [row for _, _, row in rows],
        "texts": texts.all(),
    }


def _row(
    texts: "_Texts",
    block: int | None,
    source: Layer,
    target: Layer | None,
    figures: Sequence[float | None],
    decision: _Decision,
) -> list[Any]:
    """The values of COLUMNS for one layer."""
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
