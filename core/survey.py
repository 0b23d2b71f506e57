"""Surveys two bases from a few layers: which layers pair, and whether a transfer can work."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from .delta import LowRankDelta
from .errors import InvalidSetting
from .layers import Base
from .matching import (
    MEASURES,
    BlockMap,
    BlockScores,
    Matching,
    block_map_by_name,
    blocks_of,
    match_by_blocks,
    match_by_channels,
    match_by_name,
    parse_block_map,
    score_blocks,
)
from .matching.by_block import Order
from .resources import CPU, Resources, single_threaded
from .verdict import Verdict, judge_bases

# The ways to pair layers, with the measure and the order of the block scores. Each measure has one that keeps the
# model's order. "blocks in any order": a source block feeds one target block at most (Hungarian assignment). "names":
# layers of the same name pair, as loading the old LoRA does, and nothing is measured.
MATCH_BY: Mapping[str, tuple[str, Order] | None] = {
    **{measure.match_by: (name, "in order") for name, measure in MEASURES.items()},
    "blocks in any order": ("weight_cosine", "free"),
    "names": None,
}
_DEFAULT_SEARCH: tuple[str, Order] = ("weight_cosine", "in order")  # scores shown beside a user's block map


@dataclass(frozen=True)
class Survey:
    """What a few layers of two bases show.

    scores: every source block against every target block; empty if layers pair by name. block_map: which source block
    feeds which target block. matching: the pairs of layers. verdict: None if no layer was requested, and from
    `pair_layers`.
    """

    scores: BlockScores
    block_map: BlockMap
    matching: Matching
    verdict: Verdict | None


def survey(
    source: Base,
    target: Base,
    wanted: Iterable[str],
    *,
    match_by: str = "blocks",
    block_map_text: str = "",
    deltas: Mapping[str, LowRankDelta] | None = None,
    using: Resources | None = None,
) -> Survey:
    """Pair the requested source layers with the target's, and judge the pair of bases, from a few layers of each block.

    wanted: names of source layers. match_by: a key of MATCH_BY. block_map_text: the user's block map as JSON
    (matching.parse_block_map), which overrules the weights. deltas: the adapter's, by source layer; the verdict then
    says what they lose. InvalidSetting for an unknown `match_by` or a block map that does not fit the bases.
    """
    resources, names = using or Resources(), list(wanted)
    paired = pair_layers(source, target, names, match_by=match_by, block_map_text=block_map_text, using=resources)
    if not names:
        return paired
    with single_threaded():
        progress = resources.progress
        verdict = judge_bases(source, target, paired.matching, deltas, device=CPU, progress=progress)
    return replace(paired, verdict=verdict)


def pair_layers(
    source: Base,
    target: Base,
    wanted: Iterable[str],
    *,
    match_by: str = "blocks",
    block_map_text: str = "",
    using: Resources | None = None,
) -> Survey:
    """A survey without a verdict. Arguments and errors as for `survey`."""
    if match_by not in MATCH_BY:
        raise InvalidSetting(f"Match by: expected one of {', '.join(MATCH_BY)}, found {match_by!r}.")
    names, search, progress = list(wanted), MATCH_BY[match_by], (using or Resources()).progress
    device = CPU  # reading dominates for a few layers: not worth moving models off a card
    with single_threaded():
        if search is None and not block_map_text.strip():
            sides = blocks_of(source.layers.values()), blocks_of(target.layers.values())
            scores = BlockScores(*sides, (), "weight_cosine")
            block_map = block_map_by_name(*([block.name for block in blocks] for blocks in sides))
            matching = match_by_name(source.layers, target.layers, names)
        else:
            measure, order = search or _DEFAULT_SEARCH
            scores = score_blocks(source, target, measure=measure, device=device, progress=progress)
            block_map = _choose_block_map(scores, block_map_text, order)
            matching = match_by_blocks(source.layers, target.layers, block_map, names)
        matching = match_by_channels(source, target, matching, device=device, progress=progress)
    return Survey(scores, block_map, matching, None)


def _choose_block_map(scores: BlockScores, block_map_text: str, order: Order) -> BlockMap:
    if not block_map_text.strip():
        return scores.best_map(order)
    names = ([block.name for block in blocks] for blocks in (scores.sources, scores.targets))
    return parse_block_map(block_map_text, *names)
