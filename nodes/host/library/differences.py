"""Says what a run does otherwise than an earlier one whose results it replaces."""

from collections import Counter
from collections.abc import Callable, Sequence

from ....core.library.schedule import Change
from ....core.plan import BY_MEASURE

_FOLLOW = ("measure", "rank_rule", "rank_rule_amount")  # settings that follow from the method
_BASES = ("source", "target")
_SWITCHES = ("block_map", "force", "metadata")  # settings that are there or not
_MOST_GROUPS = 4


def option_name(name: str) -> str:
    """The command line's name of a base or setting."""
    return name.upper() if name in _BASES else f"--{name.replace('_', '-')}"


def input_name(name: str) -> str:
    """A node's name of a base or setting."""
    return name


def describe_replaced(
    replaced: Counter[tuple[Change, ...]], verb: str, name_of: Callable[[str], str] = option_name
) -> str | None:
    """How many results of earlier runs with other settings are replaced, and what differs; None if there is none.

    replaced: as EarlierRuns.count_replaced gives it. verb: such as `will be`.
    """
    total = replaced.total()
    if not total:
        return None
    what = "1 result" if total == 1 else f"{total} results"
    groups = [(describe_changes(changes, name_of), count) for changes, count in replaced.most_common(_MOST_GROUPS)]
    if len(replaced) == 1:
        return f"{what} of an earlier run with other settings {verb} replaced: {groups[0][0]}."
    rest = total - sum(count for _, count in groups)
    listed = "; ".join([*(f"{count}: {text}" for text, count in groups), *([f"{rest}: others"] if rest else [])])
    return f"{what} of earlier runs with other settings {verb} replaced ({listed})."


def describe_changes(changes: Sequence[Change], name_of: Callable[[str], str] = option_name) -> str:
    """The differences, by the names that the user knows."""
    chosen = [change for change in changes if change.name not in _FOLLOW] or changes
    return ", ".join(_describe(change, name_of(change.name)) for change in chosen)


def _describe(change: Change, name: str) -> str:
    if change.name in _BASES and change.before == change.now:
        return f"{name} {change.now} with other content"
    if change.name == "block_map" and change.before and change.now:
        return f"another {name}"
    if change.name in _SWITCHES:
        return f"{'with' if change.now else 'without'} {name}"
    return f"{name} {_value(change.now)} instead of {_value(change.before)}"


def _value(value: object) -> str:
    return "its default" if value in (None, BY_MEASURE) else str(value)
