"""The contents of a LoRA's file in a few lines."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from ....core.library.entry import FileMark
from ..adapter.base_clues import BaseClues, shorten
from ..adapter.contents import Contents

_MOST_NAMES = 4

# What the pack noted in a file that it made -> what it is called here.
_NOTED = {
    "source": "source",
    "target": "target",
    "base": "trained on",
    "method": "method",
    "verdict": "verdict",
    "trained_steps": "steps of training",
    "refined_steps": "steps of refining",
}


def summarize(contents: Contents, mark: FileMark | None) -> str:
    """The contents in a few lines. mark: of the file; None if it is gone by now."""
    parts = ", ".join(f"{count} in {part}" for part, count in contents.parts.items() if count)
    trained_on = "; ".join(_claims(contents.trained_on)) or "neither the file nor the files beside it say it"
    ranks = ", ".join(f"{rank} ({count})" for rank, count in contents.ranks.items())
    kinds = ", ".join(f"{count} modules of kind {kind}" for kind, count in contents.kinds.items())
    lines = [
        f"{contents.name}: {kinds}",
        f"  title: {shorten(contents.title)}" if contents.title.strip() else "",
        f"  spelling {contents.spelling}; {parts}",
        f"  ranks (modules): {ranks}" if ranks else "",
        f"  {contents.size / 1e6:,.1f} MB, {', '.join(contents.dtypes)}; {contents.fingerprint}",
        f"  trained on: {trained_on}",
        f"  words: {', '.join(contents.words)}" if contents.words else "",
    ]
    noted = [] if contents.transferred is None else _noted(contents.transferred, mark)
    return "\n".join([*(line for line in lines if line), *noted])


def _claims(clues: BaseClues) -> Iterator[str]:
    """What is said about the base, the surest first."""
    names = sorted(clues.names, key=lambda clue: not clue.sure)
    yield from (f"{clue.shown()} ({clue.entry}{'' if clue.sure else ', a weak clue'})" for clue in names[:_MOST_NAMES])
    if len(names) > _MOST_NAMES:
        yield f"{len(names) - _MOST_NAMES} more names (--json lists them)"
    if clues.family:
        yield f"kind of model: {clues.family}"
    hashes = {"SHA-256": clues.sha256, "short hash": clues.legacy, "this pack's hash": clues.fingerprint}
    yield from (f"{kind} {shorten(digest)}" for kind, digest in hashes.items() if digest)


def _noted(noted: Mapping[str, Any], mark: FileMark | None) -> list[str]:
    """What the pack noted in a file that it made. The date is the file's own: what is noted depends on nothing but the
    inputs, so that equal transfers give equal bytes."""
    parts = [f"    {name}: {shorten(str(noted[key]))}" for key, name in _NOTED.items() if key in noted]
    if mark is not None:
        date = datetime.fromtimestamp(mark.modified / 1e9).astimezone()
        parts.append(f"    date of the file: {date:%Y-%m-%d %H:%M}")
    return [f"  made by this pack: {_kind(noted)}", *parts]


def _kind(noted: Mapping[str, Any]) -> str:
    if noted.get("kind") == "difference":
        return "the difference of two bases (target - source)"
    if "trained_steps" in noted:
        return "a training on pictures"
    return "a transfer" if "source" in noted else "a LoRA"
