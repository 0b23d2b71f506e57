"""Says in sentences why the verdict on an adapter is not `works`."""

from ..verdict import Verdict, Word, judge_loss

_PARTLY_LOST = "a part of the LoRA's change is lost, because layers have no partner or are not alike enough"
_UNEXPLAINED = "a part of the LoRA's file was skipped or not read: Project LoRA's report lists its layers"


def find_risks(verdict: Verdict, word: Word | None, lost: float | None, doubts: tuple[str, ...]) -> tuple[str, ...]:
    """The sentences that call for caution; none if all is well.

    word: the final verdict, which may be more severe than that on the bases. lost: the share of the adapter's change
    that is lost in the end, in [0, 1]. doubts: whether the adapter belongs to the source.
    """
    if word in (None, "works"):
        return ()
    judged = list(zip(verdict.severities, verdict.reasons, strict=True))
    if lost is not None and verdict.figures.matched > 0:
        judged[0] = judge_loss(lost), _PARTLY_LOST  # the first is on the loss as it was expected
    cautions = tuple(reason for severity, reason in judged if severity != "works")
    return (*cautions, *doubts) or (_UNEXPLAINED,)
