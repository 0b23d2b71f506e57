"""Matches whole blocks: each target block gets the source block most like it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..layers import Base, Layer
from ..progress import Progress, ignore_progress
from .alignment import align_freely, align_in_order
from .block_map import BlockMap, BlockMatch, UnusedBlock
from .blocks import Block, Kind, blocks_of, kinds_of
from .decisions import ScoredKind, describe_matches, describe_unused
from .namesakes import confirm_names
from .scores import MEASURES, count_free_numbers, score_all_pairs

# Small weights score high by chance. Their floor is this many standard deviations, each 1 / sqrt(free numbers), if that
# is above the measure's own floor. Unrelated models reached six, in their first layers: all first filters are smooth.
_DEVIATIONS = 8

# A block of the same name wins if its score is within this of the best: ten standard deviations of a score of a million
# entries.
_NEAR_TIE = 0.01

# How many roles of each block are compared, and the least number of entries that each should have. One role would be
# enough; with three the score survives a role that is untrained (zeros) or frozen (equal everywhere). The smallest
# weights that still give a cosine to 0.02 are the cheapest to read.
_ROLES, _ENTRIES = 3, 2500

# in order: source blocks keep their order, and each may feed several target blocks. free: any order, but each source
# block feeds at most one target block.
Order = Literal["in order", "free"]


@dataclass(frozen=True)
class BlockScores:
    """The scores of all source blocks against all target blocks, by kind; blocks are in their models' order."""

    sources: tuple[Block, ...]
    targets: tuple[Block, ...]
    kinds: tuple[ScoredKind, ...]
    measure: str

    @property
    def sampled(self) -> bool:
        """Whether a sample confirmed the names of some blocks, so that their scores are from a few rows."""
        return any(scored.sampled for scored in self.kinds)

    def table(self) -> Tensor:
        """All scores (sources, targets); NaN where two blocks are of different kinds."""
        row_of = {block.name: row for row, block in enumerate(self.sources)}
        column_of = {block.name: column for column, block in enumerate(self.targets)}
        table = torch.full((len(row_of), len(column_of)), torch.nan)
        for scored in self.kinds:
            rows = torch.tensor([row_of[block.name] for block in scored.kind.sources], dtype=torch.long)
            table[rows[:, None], [column_of[block.name] for block in scored.kind.targets]] = scored.scores
        return table

    def best_map(self, order: Order = "in order") -> BlockMap:
        """The block map with the largest sum of scores above the floor."""
        align = align_in_order if order == "in order" else align_freely
        matches: dict[str, BlockMatch] = {}
        unused: dict[str, UnusedBlock] = {}
        for scored in self.kinds:
            assigned = align(scored.scores + _NEAR_TIE * _same_name(scored.kind), scored.floor)
            matches |= {match.target: match for match in describe_matches(scored, assigned, self.measure)}
            unused |= {block.source: block for block in describe_unused(scored, assigned, self.measure)}
        in_target_order = tuple(matches[block.name] for block in self.targets)
        in_source_order = tuple(unused[block.name] for block in self.sources if block.name in unused)
        return BlockMap(self.measure, in_target_order, in_source_order)


def map_blocks(
    source: Base,
    target: Base,
    *,
    measure: str = "weight_cosine",
    order: Order = "in order",
    device: torch.device,
    progress: Progress = ignore_progress,
) -> BlockMap:
    """Find which source block feeds which target block, from a few roles of each (docs/method.md, section 4)."""
    return score_blocks(source, target, measure=measure, device=device, progress=progress).best_map(order)


def score_blocks(
    source: Base,
    target: Base,
    *,
    measure: str = "weight_cosine",
    device: torch.device,
    progress: Progress = ignore_progress,
) -> BlockScores:
    """Score all blocks of each kind against each other. Memory: the vectors of one role of all source blocks.

    Where a few rows of each block confirm that every block kept its name (namesakes), no more is read of that kind.
    """
    sources, targets = blocks_of(source.layers.values()), blocks_of(target.layers.values())
    kinds = kinds_of(sources, targets)
    roles = [sample_roles(kind) for kind in kinds]
    total = sum(
        len(sampled) * (len(kind.sources) + len(kind.targets)) for kind, sampled in zip(kinds, roles, strict=True)
    )
    done = 0

    def report_read(layer: Layer) -> None:
        nonlocal done
        progress(min(done, total), total, layer.name)  # a kind that is scored in full after its sample counts twice
        done += 1

    scored: list[ScoredKind] = []
    for kind, sampled in zip(kinds, roles, strict=True):
        confirmed = None
        if measure == "weight_cosine":
            confirmed = confirm_names(source, target, kind, sampled, on_read=report_read)
        scored.append(confirmed or _score_in_full(source, target, kind, sampled, measure, device, report_read))
    progress(total, total, "")
    return BlockScores(sources, targets, tuple(scored), measure)


def sample_roles(kind: Kind) -> list[str]:
    """Choose the roles that represent a block: of the roles that every block has, the smallest with enough entries,
    evenly spread over the block. Empty if one of the bases has no block of this kind."""
    if not kind.sources or not kind.targets:
        return []
    sizes = {role: count_free_numbers(kind.sources[0].layers[role], "weight_cosine") for role in kind.roles()}
    large_enough = {role: size for role, size in sizes.items() if size >= _ENTRIES} or sizes
    cheap = [role for role, size in large_enough.items() if size <= 2 * min(large_enough.values())]
    count = min(_ROLES, len(cheap))
    return [cheap[index * (len(cheap) - 1) // max(1, count - 1)] for index in range(count)]


def _score_in_full(
    source: Base,
    target: Base,
    kind: Kind,
    roles: Sequence[str],
    measure: str,
    device: torch.device,
    on_read: Callable[[Layer], None],
) -> ScoredKind:
    tables = [
        score_all_pairs(
            (source, [block.layers[role] for block in kind.sources]),
            (target, [block.layers[role] for block in kind.targets]),
            measure,
            device=device,
            on_read=on_read,
        )
        for role in roles
    ]
    no_scores = torch.full((len(kind.sources), len(kind.targets)), torch.nan)
    layers = [kind.sources[0].layers[role] for role in roles]
    return ScoredKind(kind, torch.stack(list(tables)).nanmean(0) if tables else no_scores, floor_of(layers, measure))


def floor_of(layers: Sequence[Layer], measure: str) -> float:
    """The mean score over these layers above which two blocks count as related."""
    numbers, floor = sum(count_free_numbers(layer, measure) for layer in layers), MEASURES[measure].floor
    return max(floor, _DEVIATIONS / math.sqrt(numbers)) if numbers else floor


def _same_name(kind: Kind) -> Tensor:
    return torch.tensor([[float(s.name == t.name) for t in kind.targets] for s in kind.sources]).reshape(
        len(kind.sources), len(kind.targets)
    )
