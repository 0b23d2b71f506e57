"""Match whole blocks: every target block gets the source block that it is most like, in order."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..layers import Base, Layer
from ..progress import Progress, silent
from .alignment import align_freely, align_in_order
from .block_map import BlockMap, BlockMatch, LeftAlone
from .blocks import Block, Kind, blocks_of, kinds_of
from .decisions import ScoredKind, left_alone, matches_of
from .scores import Measure, all_pairs, free_numbers

# A score below this is no better than unrelated weights give: benchmarks/matching/RESULTS.md, "The floor".
UNRELATED: Mapping[Measure, float] = {"weight_cosine": 0.15, "subspace": 0.1}

# Small weights score high by chance: the floor is this many standard deviations, 1 / sqrt(free numbers), where that is
# more. Strangers reached six, in their first layers, whose filters are smooth alike.
_DEVIATIONS = 8

# The same name wins when it scores within this of the best: ten standard deviations of a score that rests on a million
# entries.
_NEAR_TIE = 0.01

# Roles compared for each block. One would do; three hold when one of them is untrained (zeros) or frozen (equal
# everywhere). The smallest that tell a cosine to 0.02 are the cheapest to read.
_ROLES, _ENTRIES = 3, 2500

# in order: sources never go back, and may feed several targets. free: any order, but each source feeds one target.
Order = Literal["in order", "free"]


@dataclass(frozen=True)
class BlockScores:
    """All blocks of two bases against each other, in their models' order, by make."""

    sources: tuple[Block, ...]
    targets: tuple[Block, ...]
    kinds: tuple[ScoredKind, ...]
    measure: Measure

    def table(self) -> Tensor:
        """(sources, targets), NaN where two blocks are not of one make."""
        rows = {block.name: place for place, block in enumerate(self.sources)}
        columns = {block.name: place for place, block in enumerate(self.targets)}
        whole = torch.full((len(rows), len(columns)), torch.nan)
        for one in self.kinds:
            places = torch.tensor([rows[block.name] for block in one.kind.sources], dtype=torch.long)
            whole[places[:, None], [columns[block.name] for block in one.kind.targets]] = one.scores
        return whole

    def best_map(self, order: Order = "in order") -> BlockMap:
        """Which source block feeds which target block, so that the scores are highest."""
        align = align_in_order if order == "in order" else align_freely
        matches: dict[str, BlockMatch] = {}
        alone: dict[str, LeftAlone] = {}
        for one in self.kinds:
            taken = align(one.scores + _NEAR_TIE * _same_name(one.kind), one.floor)
            matches |= {match.target: match for match in matches_of(one, taken, self.measure)}
            alone |= {block.source: block for block in left_alone(one, taken, self.measure)}
        fed = tuple(matches[block.name] for block in self.targets)
        return BlockMap(self.measure, fed, tuple(alone[one.name] for one in self.sources if one.name in alone))


def map_blocks(
    source: Base,
    target: Base,
    *,
    measure: Measure = "weight_cosine",
    order: Order = "in order",
    device: torch.device,
    progress: Progress = silent,
) -> BlockMap:
    """Which source block feeds which target block, from a few roles of each (docs/method.md, section 4)."""
    return score_blocks(source, target, measure=measure, device=device, progress=progress).best_map(order)


def score_blocks(
    source: Base, target: Base, *, measure: Measure = "weight_cosine", device: torch.device, progress: Progress = silent
) -> BlockScores:
    """The scores of all blocks of one make against each other; one role is in memory at a time."""
    sources, targets = blocks_of(source.layers.values()), blocks_of(target.layers.values())
    kinds = kinds_of(sources, targets)
    roles = [sampled_roles(kind) for kind in kinds]
    total = sum(len(some) * (len(kind.sources) + len(kind.targets)) for kind, some in zip(kinds, roles, strict=True))
    done = 0

    def read(name: str) -> None:
        nonlocal done
        progress(done, total, name)
        done += 1

    scored: list[ScoredKind] = []
    for kind, some in zip(kinds, roles, strict=True):
        tables = [
            all_pairs(
                (source, [block.layers[role] for block in kind.sources]),
                (target, [block.layers[role] for block in kind.targets]),
                measure,
                device=device,
                read=lambda layer: read(layer.name),
            )
            for role in some
        ]
        scored.append(_scored(kind, some, tables, measure))
    progress(total, total, "")
    return BlockScores(sources, targets, tuple(scored), measure)


def sampled_roles(kind: Kind) -> list[str]:
    """The roles that stand for a block: of those that every block has, the smallest that tell enough, evenly spread
    over the block. None where there is nothing to choose between."""
    if not kind.sources or not kind.targets:
        return []
    sizes = {role: free_numbers(kind.sources[0].layers[role], "weight_cosine") for role in kind.roles()}
    telling = {role: size for role, size in sizes.items() if size >= _ENTRIES} or sizes
    cheap = [role for role, size in telling.items() if size <= 2 * min(telling.values())]
    count = min(_ROLES, len(cheap))
    return [cheap[index * (len(cheap) - 1) // max(1, count - 1)] for index in range(count)]


def _scored(kind: Kind, roles: Sequence[str], tables: Sequence[Tensor], measure: Measure) -> ScoredKind:
    nothing = torch.full((len(kind.sources), len(kind.targets)), torch.nan)
    layers = [kind.sources[0].layers[role] for role in roles]
    return ScoredKind(kind, torch.stack(list(tables)).nanmean(0) if tables else nothing, floor_of(layers, measure))


def floor_of(layers: Sequence[Layer], measure: Measure) -> float:
    """The mean score over these layers that two blocks must pass to be taken for related."""
    numbers = sum(free_numbers(layer, measure) for layer in layers)
    return max(UNRELATED[measure], _DEVIATIONS / math.sqrt(numbers)) if numbers else UNRELATED[measure]


def _same_name(kind: Kind) -> Tensor:
    return torch.tensor([[float(s.name == t.name) for t in kind.targets] for s in kind.sources]).reshape(
        len(kind.sources), len(kind.targets)
    )
