"""Which sentences of an entry make its verdict risky: compared with the verdict that made them."""

import itertools

import pytest

from lora_transfer.core.library.entry import Entry, FileMark
from lora_transfer.core.library.risks import find_risks
from lora_transfer.core.reports.envelope import Identity
from lora_transfer.core.verdict import PairFigures, Verdict, judge, judge_loss

BASES = Identity("old", "1"), Identity("new", "2")
SWAPPED = "the LoRA's file says that it was trained on new, which you chose as the target"

VERDICTS = [
    judge(PairFigures(16, 1.0, lost, cosine, cosine, 0.5, drift, ratio))
    for lost, cosine, drift, ratio in itertools.product(
        (0.0, 0.05, 0.3, 0.95), (None, 0.01, 0.5, 0.99), (None, 0.2), (None, 1.5)
    )
]


def entry(verdict: Verdict, word: str, *doubts: str) -> Entry:
    mark, lost = FileMark(1, 2), verdict.figures.lost
    return Entry("a", mark, *BASES, {}, "transferred", verdict=word, reasons=(*verdict.reasons, *doubts), lost=lost)


@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_sentence_that_calls_for_caution_is_named_and_no_other(verdict: Verdict) -> None:
    risks = find_risks(entry(verdict, verdict.word))
    sentences = list(zip(verdict.severities, verdict.reasons, strict=True))[1:]  # the first is on the lost share
    assert [risk for risk in risks if risk in verdict.reasons] == [text for word, text in sentences if word != "works"]
    lost = verdict.figures.lost or 0.0
    assert any("is lost" in risk for risk in risks) == (judge_loss(lost) != "works")


def test_a_doubt_is_named_alone_if_the_bases_are_relatives() -> None:
    relatives = judge(PairFigures(16, 1.0, 0.0, 0.99, 0.98, 0.9, 0.1, 0.5))
    assert relatives.word == "works"
    assert find_risks(entry(relatives, "works")) == ()
    assert find_risks(entry(relatives, "risky", SWAPPED)) == (SWAPPED,)


def test_a_risk_without_a_sentence_still_gets_one() -> None:
    relatives = judge(PairFigures(16, 1.0, 0.0, 0.99, 0.98, 0.9, 0.1, 0.5))
    (risk,) = find_risks(entry(relatives, "risky"))  # by keys that are not read
    assert "not read" in risk
    assert find_risks(entry(judge(PairFigures(0, 0.0)), "refuse")) == ("no layer has a partner in the target",)
