"""What is decided about two bases before anything is computed in full: which layers pair, and whether it can work."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from .delta import LowRankDelta
from .layers import Base
from .matching import (
    BlockMap,
    BlockScores,
    Matching,
    block_map_by_name,
    blocks_of,
    given_block_map,
    match_by_blocks,
    match_by_channels,
    match_by_name,
    score_blocks,
)
from .resources import CPU, Resources, single_threaded
from .verdict import Verdict, verdict

# blocks: whole blocks by the cosine of their weights, in the model's order | blocks by subspaces: by the overlap of
# their leading singular directions, which takes longer and fades sooner | blocks in any order: each source block feeds
# one target block at most (Hungarian assignment) | names: what loading the old LoRA does; nothing is measured for it
MatchBy = Literal["blocks", "blocks by subspaces", "blocks in any order", "names"]


@dataclass(frozen=True)
class Survey:
    """scores: every block of one base against every block of the other; empty by names. block_map: which feeds which.
    matching: the pairs of layers that follow. verdict: None where no layer was asked for."""

    scores: BlockScores
    block_map: BlockMap
    matching: Matching
    verdict: Verdict | None


def survey(
    source: Base,
    target: Base,
    wanted: Iterable[str],
    *,
    match_by: MatchBy = "blocks",
    given: str = "",
    deltas: Mapping[str, LowRankDelta] | None = None,
    using: Resources | None = None,
) -> Survey:
    """Pair the wanted source layers with the target's, and judge the pair of bases, from a few layers of each block.

    given: a block map as JSON (matching.given_block_map), which goes before what the weights say.
    """
    resources, names = using or Resources(), list(wanted)
    device, progress = CPU, resources.progress  # a few layers, bound by reading: no card is worth emptying for them
    with single_threaded():
        if match_by == "names" and not given.strip():
            sides = blocks_of(source.layers.values()), blocks_of(target.layers.values())
            scores = BlockScores(*sides, (), "weight_cosine")
            block_map = block_map_by_name(*([block.name for block in blocks] for blocks in sides))
            matching = match_by_name(source.layers, target.layers, names)
        else:
            by = "subspace" if match_by == "blocks by subspaces" else "weight_cosine"
            scores = score_blocks(source, target, measure=by, device=device, progress=progress)
            block_map = _given_or_found(scores, given, match_by)
            matching = match_by_blocks(source.layers, target.layers, block_map, names)
        matching = match_by_channels(source, target, matching, device=device, progress=progress)
        judged = verdict(source, target, matching, deltas, device=device, progress=progress) if names else None
    return Survey(scores, block_map, matching, judged)


def _given_or_found(scores: BlockScores, given: str, match_by: MatchBy) -> BlockMap:
    if not given.strip():
        return scores.best_map("free" if match_by == "blocks in any order" else "in order")
    return given_block_map(given, *([block.name for block in blocks] for blocks in (scores.sources, scores.targets)))
