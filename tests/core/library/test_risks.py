"""The sentences that say why a verdict is not `works`."""

import itertools

import pytest

from lora_transfer.core.library.risks import find_risks
from lora_transfer.core.verdict import PairFigures, Verdict, judge, judge_loss

SWAPPED = "the LoRA's file says that it was trained on new, which you chose as the target"
RELATIVES = judge(PairFigures(16, 1.0, 0.0, 0.99, 0.98, 0.9, 0.1, 0.5))

VERDICTS = [
    judge(PairFigures(16, 1.0, lost, cosine, cosine, 0.5, drift, ratio))
    for lost, cosine, drift, ratio in itertools.product(
        (0.0, 0.05, 0.3, 0.95), (None, 0.01, 0.5, 0.99), (None, 0.2), (None, 1.5)
    )
]


@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_sentence_that_calls_for_caution_is_named_and_no_other(verdict: Verdict) -> None:
    lost = verdict.figures.lost
    assert lost is not None
    risks = find_risks(verdict, verdict.word, lost, ())
    sentences = list(zip(verdict.severities, verdict.reasons, strict=True))[1:]  # the first is on the lost share
    assert [risk for risk in risks if risk in verdict.reasons] == [text for word, text in sentences if word != "works"]
    assert any("is lost" in risk for risk in risks) == (judge_loss(lost) != "works")


def test_a_doubt_is_named_alone_if_the_bases_are_relatives() -> None:
    assert RELATIVES.word == "works"
    assert find_risks(RELATIVES, "works", 0.0, ()) == ()
    assert find_risks(RELATIVES, "risky", 0.0, (SWAPPED,)) == (SWAPPED,)


def test_a_risk_without_a_sentence_still_gets_one() -> None:
    (risk,) = find_risks(RELATIVES, "risky", 0.0, ())  # by keys that are not read
    assert "not read" in risk
    assert find_risks(judge(PairFigures(0, 0.0)), "refuse", None, ()) == ("no layer has a partner in the target",)


def test_without_a_known_loss_the_share_of_the_layers_is_named() -> None:
    verdict = judge(PairFigures(16, 0.5, None, 0.99, 0.98, 0.9, 0.1))
    assert find_risks(verdict, verdict.word, None, ()) == (verdict.reasons[0],)
