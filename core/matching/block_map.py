"""Block maps: which source block feeds which target block, as JSON that a user can read and edit."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from ..errors import InvalidSetting

SCHEMA = 1


@dataclass(frozen=True)
class BlockMatch:
    """A target block and the source block that feeds it, or None.

    score: of that source block. runner_up: the best of the other source blocks.
    """

    target: str
    source: str | None
    why: str
    score: float | None = None
    runner_up: str | None = None
    runner_up_score: float | None = None


@dataclass(frozen=True)
class UnusedBlock:
    """A source block that feeds no target block. why: the reason; best: the most similar target block."""

    source: str
    why: str
    best: str | None = None
    score: float | None = None


@dataclass(frozen=True)
class BlockMap:
    """Every target block once, in the target's order. Every source block is in a match or in `unused_blocks`."""

    measure: str
    matches: tuple[BlockMatch, ...]
    unused_blocks: tuple[UnusedBlock, ...] = ()

    @property
    def same_depth(self) -> bool:
        """Whether the target has as many blocks as the source."""
        return len(self.sources()) == len(self.matches)

    def sources(self) -> list[str]:
        """Every source block that the map names."""
        fed = [match.source for match in self.matches if match.source is not None]
        return [*dict.fromkeys(fed), *(block.source for block in self.unused_blocks)]

    def targets_of(self, source: str) -> list[str]:
        """The target blocks that a source block feeds: none, one, or several if the target is a grown model."""
        return [match.target for match in self.matches if match.source == source]

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "measure": self.measure,
            "blocks": [vars(match) for match in self.matches],
            "left_alone": [vars(block) for block in self.unused_blocks],
        }

    def dumps(self) -> str:
        """The map as JSON text, which `parse_block_map` reads."""
        return json.dumps(self.as_json(), indent=1, allow_nan=False)


def parse_block_map(text: str, sources: Iterable[str], targets: Iterable[str]) -> BlockMap:
    """Read a block map that a user wrote or edited: the JSON of `dumps`, or {"target block": "source block"}.

    sources, targets: the names of the two bases' blocks. A target block that is null or missing in the text gets no
    source. Scores in the text are ignored, because they may be older than the user's edits. InvalidSetting names what
    is wrong.
    """
    assigned, source_names, target_names = _assignments(text), list(sources), list(targets)
    for target, source in assigned.items():
        for block, side, names in ((target, "target", target_names), (source, "source", source_names)):
            if block is not None and block not in names:
                raise InvalidSetting(
                    f"Block map, entry for {target!r}: expected a block of the {side} base, found {block!r}. Take the "
                    "names from the map that Compute Subspace Similarity outputs, or that cli.py verdict --json prints."
                )
    matches = tuple(BlockMatch(name, assigned.get(name), _BY_USER) for name in target_names)
    used = set(assigned.values())
    return BlockMap("user", matches, tuple(UnusedBlock(name, _BY_USER) for name in source_names if name not in used))


def block_map_by_name(sources: Iterable[str], targets: Iterable[str]) -> BlockMap:
    """Pair blocks of the same name, as loading the old LoRA on the target does."""
    source_names, target_names = list(sources), list(targets)
    matches = tuple(BlockMatch(name, name if name in source_names else None, _BY_NAME) for name in target_names)
    return BlockMap(
        "names", matches, tuple(UnusedBlock(name, _BY_NAME) for name in source_names if name not in target_names)
    )


_BY_NAME = "by name, not measured"
_BY_USER = "from the user's block map"


def _assignments(text: str) -> dict[str, str | None]:
    """Target block -> source block or None."""
    try:
        read: Any = json.loads(text)
        if isinstance(read, dict) and isinstance(blocks := cast(Any, read).get("blocks"), list):
            read = {block["target"]: block["source"] for block in cast(Any, blocks)}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidSetting(f"Block map: {_EXPECTED}, found other text ({error!r}).") from error
    if not isinstance(read, dict):
        raise InvalidSetting(f"Block map: {_EXPECTED}, found {type(read).__name__}.")
    for target, source in cast("Mapping[str, Any]", read).items():
        if not (source is None or isinstance(source, str)):
            raise InvalidSetting(
                f"Block map, entry for {target!r}: expected the name of a block or null, found {source!r}."
            )
    return cast("dict[str, str | None]", read)


_EXPECTED = 'expected JSON like {"target block": "source block"} or the block map of a report'
