"""Says which sentences of an entry make its verdict risky."""

from ..verdict import judge_loss
from .entry import Entry

# Sentences of a verdict (verdict.judge) that call for no caution. A manifest keeps the sentences without the word that
# each of them calls for; a test compares this list with verdict.judge.
_HARMLESS = (
    "the target is a close relative of the source",
    "the target's weights differ from the source's by",
    "on the inputs that the LoRA reads",
)
_PARTNERS, _REST_LOST = "a partner in the target", "; the rest is lost"

_PARTLY_LOST = "a part of the LoRA's change is lost, because layers have no partner or are not alike enough"
_UNEXPLAINED = "a part of the LoRA's file was skipped or not read: Project LoRA's report lists its layers"


def find_risks(entry: Entry) -> tuple[str, ...]:
    """The sentences on why the verdict of an entry is not `works`; none if it is."""
    if entry.verdict in (None, "works"):
        return ()
    lost = [_PARTLY_LOST] if entry.lost is not None and judge_loss(entry.lost) != "works" else []
    return (*lost, *(reason for reason in entry.reasons if not _is_harmless(reason, entry))) or (_UNEXPLAINED,)


def _is_harmless(reason: str, entry: Entry) -> bool:
    if _PARTNERS in reason and not reason.startswith("no layer"):
        return entry.lost is not None or _REST_LOST not in reason  # the share that is lost is judged by its figure
    return any(sentence in reason for sentence in _HARMLESS)
