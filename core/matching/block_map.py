"""Which source block feeds which target block: a value that a person can read, change and give back as JSON."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from ..errors import InvalidSetting

SCHEMA = 1


@dataclass(frozen=True)
class BlockMatch:
    """A target block and the source block that feeds it, None when none does.

    score: of the source block taken; runner_up: the best of those that were not taken.
    """

    target: str
    source: str | None
    why: str
    score: float | None = None
    runner_up: str | None = None
    runner_up_score: float | None = None


@dataclass(frozen=True)
class LeftAlone:
    """A source block that feeds nothing, the target block most like it, and why it is not taken."""

    source: str
    why: str
    best: str | None = None
    score: float | None = None


@dataclass(frozen=True)
class BlockMap:
    """Every target block once, in the target's order; every source block is in a match or in `left_alone`."""

    measure: str
    matches: tuple[BlockMatch, ...]
    left_alone: tuple[LeftAlone, ...] = ()

    @property
    def same_depth(self) -> bool:
        """Whether the target has as many blocks as the source."""
        return len(self.sources()) == len(self.matches)

    def sources(self) -> list[str]:
        """Every source block that the map speaks of."""
        fed = [match.source for match in self.matches if match.source is not None]
        return [*dict.fromkeys(fed), *(block.source for block in self.left_alone)]

    def targets_of(self, source: str) -> list[str]:
        """The target blocks that a source block feeds: none, one, or several in a grown model."""
        return [match.target for match in self.matches if match.source == source]

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "measure": self.measure,
            "blocks": [vars(match) for match in self.matches],
            "left_alone": [vars(block) for block in self.left_alone],
        }

    def dumps(self) -> str:
        return json.dumps(self.as_json(), indent=1, allow_nan=False)

    @staticmethod
    def loads(text: str) -> "BlockMap":
        """What `dumps` wrote, figures and all. For a map that a person may have changed: given_block_map."""
        read = json.loads(text)
        matches = tuple(BlockMatch(**match) for match in read["blocks"])
        return BlockMap(read["measure"], matches, tuple(LeftAlone(**block) for block in read["left_alone"]))


def given_block_map(text: str, sources: Iterable[str], targets: Iterable[str]) -> BlockMap:
    """A block map that a person wrote or changed: what `dumps` gives, or plainly {"target block": "source block"}.

    A target block that the text does not name is fed by nothing; null says the same. Figures are not taken over: they
    may belong to what stood there before. InvalidSetting names what is wrong.
    """
    assigned, source_names, target_names = _assignments(text), list(sources), list(targets)
    for target, source in assigned.items():
        for block, side, names in ((target, "target", target_names), (source, "source", source_names)):
            if block is not None and block not in names:
                raise InvalidSetting(
                    f"Block map, line of {target!r}: expected a block of the {side} base, found {block!r}. Take the "
                    "names from the map that Compute Subspace Similarity gives."
                )
    matches = tuple(BlockMatch(name, assigned.get(name), _GIVEN) for name in target_names)
    fed = set(assigned.values())
    return BlockMap("given", matches, tuple(LeftAlone(name, _GIVEN) for name in source_names if name not in fed))


def block_map_by_name(sources: Iterable[str], targets: Iterable[str]) -> BlockMap:
    """Every target block fed by the source block of its name, where there is one: what loading the old LoRA does."""
    source_names, target_names = list(sources), list(targets)
    matches = tuple(BlockMatch(name, name if name in source_names else None, _NAMED) for name in target_names)
    return BlockMap(
        "names", matches, tuple(LeftAlone(name, _NAMED) for name in source_names if name not in target_names)
    )


_NAMED = "by name, unmeasured"
_GIVEN = "as the given block map says"


def _assignments(text: str) -> dict[str, str | None]:
    """Target block -> source block or None."""
    try:
        read: Any = json.loads(text)
        if isinstance(read, dict) and isinstance(lines := cast(Any, read).get("blocks"), list):
            read = {line["target"]: line["source"] for line in cast(Any, lines)}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidSetting(f"Block map: {_EXPECTED}, found text that is none ({error!r}).") from error
    if not isinstance(read, dict):
        raise InvalidSetting(f"Block map: {_EXPECTED}, found {type(read).__name__}.")
    for target, source in cast("Mapping[str, Any]", read).items():
        if not (source is None or isinstance(source, str)):
            raise InvalidSetting(
                f"Block map, line of {target!r}: expected the name of a block or null, found {source!r}."
            )
    return cast("dict[str, str | None]", read)


_EXPECTED = 'expected JSON like {"target block": "source block"} or a block map as the report has it'
