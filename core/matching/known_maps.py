"""Maps of blocks that others published. With them a LoRA can be transferred although its source base is missing."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .block_map import BlockMap, BlockMatch, UnusedBlock


@dataclass(frozen=True)
class KnownMap:
    """Which blocks of a published source model feed the blocks of a published target model.

    family: ComfyUI's class of both models. stack: the part of a block's name before its number. sources: for each block
    of the target, in order, the number of the source block that feeds it; None for a new block. depth: the number of
    the source's blocks in that stack. other_stacks: the number of blocks in the target's other stacks, which stay as
    they are. origin: who published the map. entry: the metadata entry by which others mark a LoRA that was converted by
    this map already. depth_entry: the metadata entry in which trainers write the number of the base's blocks.
    """

    source: str
    target: str
    family: str
    stack: str
    depth: int
    sources: tuple[int | None, ...]
    origin: str
    other_stacks: Mapping[str, int]
    entry: tuple[str, str] | None = None
    depth_entry: str | None = None

    @property
    def grows(self) -> bool:
        """Whether the target has more blocks than the source."""
        return len(self.sources) > self.depth

    def fits_target(self, family: str, blocks: Iterable[str]) -> bool:
        """Whether a model of this family with these blocks is the map's target, by the number of its blocks."""
        names = list(blocks)
        stacks = {self.stack: len(self.sources), **self.other_stacks}
        return family == self.family and all(_count(names, stack) == count for stack, count in stacks.items())

    def number_of(self, name: str) -> int | None:
        """The number of the block in the map's stack that a layer or a block belongs to; None for any other."""
        number = re.match(rf"{re.escape(self.stack)}\.(\d+)(?![^.])", name)
        return None if number is None else int(number[1])

    def fits_adapter(self, highest: int | None) -> bool:
        """Whether an adapter was made for the source rather than for the target. highest: the highest block that it
        changes.

        A target with fewer blocks lacks the last blocks of the source. An adapter for a target with more blocks changes
        its last blocks, unless its trainer left them out on purpose.
        """
        if highest is None or highest >= self.depth:
            return False
        return self.grows or highest >= len(self.sources)

    def template_of(self, source: int) -> int:
        """The target block that has the same layers as a source block. All blocks of a stack are alike."""
        return self.sources.index(source) if source in self.sources else 0

    def block_map(self, blocks: Sequence[str]) -> BlockMap:
        """The map for all blocks of the target. Blocks outside of the stack are fed by those of the same name."""
        matches = tuple(BlockMatch(block, self._source_of(block), self._why()) for block in blocks)
        removed = [number for number in range(self.depth) if number not in self.sources]
        why = f"{self.target} was made without this block of {self.source}"
        return BlockMap("published", matches, tuple(UnusedBlock(f"{self.stack}.{number}", why) for number in removed))

    def _source_of(self, block: str) -> str | None:
        number = self.number_of(block)
        if number is None:
            return block
        source = self.sources[number]
        return None if source is None else f"{self.stack}.{source}"

    def _why(self) -> str:
        return f"by the published map of {self.source} to {self.target} ({self.origin})"


def _count(blocks: Iterable[str], stack: str) -> int:
    return sum(re.fullmatch(rf"{re.escape(stack)}\.\d+", block) is not None for block in blocks)


def _with_new_blocks(depth: int, new: Sequence[int]) -> tuple[int | None, ...]:
    """The sources of a grown stack: the old blocks keep their order in the places that no new block takes."""
    old = iter(range(depth))
    return tuple(None if number in new else next(old) for number in range(depth + len(new)))


KNOWN_MAPS: tuple[KnownMap, ...] = (
    KnownMap(
        source="Anima with 28 blocks",
        target="Anima with 40 blocks (2.9B)",
        family="Anima",
        stack="blocks",
        depth=28,
        sources=_with_new_blocks(28, (2, 5, 8, 11, 14, 17, 21, 24, 27, 30, 33, 36)),
        origin="the model's own expand manifest",
        other_stacks={},
        entry=("ss_anima_remap", "28to40"),
        depth_entry="ss_anima_num_blocks",
    ),
    KnownMap(
        source="Flux.1 dev",
        target="Flex.1 alpha",
        family="Flux",
        stack="double_blocks",
        depth=19,
        sources=(0, 1, 2, 3, 4, 16, 17, 18),
        origin="ostris/ComfyUI-FlexTools",
        other_stacks={"single_blocks": 38},
    ),
)


def known_maps_to(family: str, blocks: Iterable[str]) -> list[KnownMap]:
    """The published maps whose target is a model of this family with these blocks."""
    names = list(blocks)
    return [known for known in KNOWN_MAPS if known.fits_target(family, names)]
