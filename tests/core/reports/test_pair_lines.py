"""What a comparison and a transfer say to the user, in order, and that it is true in each situation."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from lora_transfer.core.layers import Skipped
from lora_transfer.core.pair_kinds import KINDS, PairKind
from lora_transfer.core.plan import TransferSettings, modules_of, plan_transfer
from lora_transfer.core.reports.envelope import Identity
from lora_transfer.core.reports.line import Line
from lora_transfer.core.reports.pair_lines import comparison_lines, transfer_lines
from lora_transfer.core.reports.transfer import Report, similarity_report, transfer_report
from lora_transfer.core.similarity import compare
from lora_transfer.core.subspace import RankRule
from lora_transfer.core.survey import survey
from lora_transfer.core.transfer import transfer
from tests.core.bases import CountingBase
from tests.core.test_survey import lora_on, model


def drifted(base: CountingBase) -> CountingBase:
    generator = torch.Generator().manual_seed(11)
    weights = {name: base.read(layer) for name, layer in base.layers.items()}
    noise = {name: torch.randn(weight.shape, generator=generator) for name, weight in weights.items()}
    return CountingBase("drifted", {name: weight + 0.05 * noise[name] for name, weight in weights.items()})


def compared(source: CountingBase, target: CountingBase, measure: Any = "weight_cosine") -> Any:
    deltas = lora_on(source)
    surveyed = survey(source, target, list(deltas), match_by="blocks", deltas=deltas)
    return compare(source, target, surveyed, RankRule("fraction", 0.5), measure=measure, deltas=deltas)


def reported(source: CountingBase, target: CountingBase, **settings: Any) -> Report:
    """The report of a transfer with the default method."""
    comparison, deltas = compared(source, target), lora_on(source)
    plan = plan_transfer(comparison, modules_of(deltas), TransferSettings(**{"threshold": 0.15, **settings}))
    layers = transfer(comparison, plan, deltas).layers
    lost = plan.share_lost(deltas, comparison.channels)
    return transfer_report(comparison, plan, layers, Identity("lora", ""), lost=lost)


def said(report: Report, kind: PairKind | None, notes: tuple[str, ...] = ()) -> list[Line]:
    return list(transfer_lines(report, kind, notes))


def text_of(lines: list[Line], tone: str | None = None) -> str:
    return "\n".join(line.text for line in lines if tone in (None, line.tone))


RELATED = reported(model([0, 1, 2]), drifted(model([0, 1, 2])))
PRUNED = reported(model([0, 1, 2, 3]), model([0, 2, 3]))


def test_a_transfer_says_that_it_worked_how_well_at_which_strength_and_what_to_do_next() -> None:
    lines = said(RELATED, KINDS["near"])
    assert [line.tone for line in lines] == ["good", "good", "plain", "plain", "next"]
    assert lines[0].text == "7 of 7 layers transferred."
    assert lines[1].text.startswith("works: ")
    assert "93% of what a LoRA trained on the target brings" in lines[2].text
    assert "strength 1" in lines[3].text
    assert "Save LoRA" in lines[4].text


def test_a_loss_is_said_with_its_reasons_and_the_word_agrees_with_it() -> None:
    lines = said(PRUNED, KINDS["pruned"])
    assert PRUNED.word == "risky"
    assert "risky: " in text_of(lines, "warn")
    assert "of the LoRA's change is lost" in text_of(lines, "warn")
    assert "layers left out (first: blocks.1.q)" in text_of(lines)
    assert "Check Transfer" in text_of(lines, "next")
    assert "79% to 97%" in text_of(lines, "next")


@pytest.mark.parametrize(
    ("name", "strength"), [("drifted", "0.75"), ("near", "strength 1"), ("farther", "not measured")]
)
def test_the_strength_is_one_that_was_measured_on_such_a_pair(name: str, strength: str) -> None:
    text = text_of(said(RELATED, KINDS[name]))
    assert strength in text
    assert ("0.75" in text) == (name == "drifted")


def test_layers_below_the_threshold_are_no_success_and_the_advice_names_a_threshold_that_takes_them() -> None:
    report = reported(model([0, 1, 2]), drifted(model([0, 1, 2])), threshold=0.9999)
    lost = replace(report, lost=0.4)
    assert lost.verdict is not None
    assert (lost.verdict.word, lost.word) == ("works", "risky")
    assert lost.summary().startswith("risky; ")
    assert lost.as_json()["word"] == "risky"
    advice = next(line.text for line in said(lost, KINDS["near"]) if "threshold" in line.text)
    chosen = float(advice.split("set threshold to ")[1].split(",")[0])
    assert reported(model([0, 1, 2]), drifted(model([0, 1, 2])), threshold=chosen).counts()["skipped"] == 0
    copied = reported(model([0, 1, 2]), drifted(model([0, 1, 2])), threshold=0.9999, below_threshold="copy")
    assert "threshold" not in text_of(said(copied, KINDS["near"]))


def test_unread_keys_of_the_model_and_a_doubtful_source_make_a_transfer_risky() -> None:
    assert RELATED.word == "works"
    assert replace(RELATED, unread_share=0.4).word == "risky"
    doubtful = replace(RELATED, doubts=("the LoRA's file says that it was trained on another base",))
    assert doubtful.word == "risky"
    assert "The LoRA's file says that it was trained on another base." in text_of(said(doubtful, KINDS["near"]), "warn")


def test_a_transfer_between_equal_bases_says_that_none_is_needed_and_nothing_else() -> None:
    source = model([0, 1, 2])
    for report, lines in (
        (same := reported(source, model([0, 1, 2])), said(same, KINDS["near"])),
        (pair := similarity_report(compared(source, model([0, 1, 2])), None, 0.0), list(comparison_lines(pair, None))),
    ):
        assert report.is_between_equal_bases()
        assert [line.tone for line in lines] == ["warn"]
        assert "no transfer is needed" in lines[0].text
        assert "load the LoRA as it is" in lines[0].text
    assert not RELATED.is_between_equal_bases()
    assert not PRUNED.is_between_equal_bases()
    swapped = reported(source, model([1, 0, 2]))
    assert not swapped.is_between_equal_bases()  # the same weights, but other blocks


def test_a_base_in_another_precision_is_the_same_base() -> None:
    source, target = model([0, 1, 2]), model([0, 1, 2])
    rounded = {name: target.read(layer).bfloat16().float() for name, layer in target.layers.items()}
    assert reported(source, CountingBase("rounded", rounded)).is_between_equal_bases()


def test_a_comparison_of_unrelated_bases_says_refuse_and_promises_no_transfer() -> None:
    report = similarity_report(compared(model([0, 1, 2]), model([0, 1, 2], seed=50)), Identity("lora", ""), 0.0)
    lines = list(comparison_lines(report, KINDS["other latents"]))
    assert lines[0].tone == "bad"
    assert lines[0].text.startswith("refuse: ")
    assert "Project LoRA" not in text_of(lines)
    assert "brought" not in text_of(lines)


def test_a_transfer_that_nothing_is_known_of_is_no_success_and_its_notes_are_warnings() -> None:
    unknown = replace(RELATED, verdict=None)
    lines = said(unknown, None, ("nothing could be checked",))
    assert "good" not in {line.tone for line in lines}
    assert Line("warn", "Nothing could be checked.") in lines


def test_reasons_that_differ_in_their_figures_alone_are_counted_together_and_others_are_summed_up() -> None:
    reasons = [f"weight cosine 0.{index} is below 0.8" for index in range(20)]
    reasons += ["no partner", "another shape", "a kind that is not read"]
    report = replace(RELATED, skipped=tuple(Skipped(f"layer {index}", reason) for index, reason in enumerate(reasons)))
    text = text_of(said(report, KINDS["near"]))
    assert "20 layers left out (first: layer 0): weight cosine 0.0 is below 0.8." in text
    assert "1 more reason for what is left out" in text


def test_a_method_without_figures_is_promised_none() -> None:
    report = replace(RELATED, settings={**RELATED.settings, "method": "lora_x"})
    text = text_of(said(report, KINDS["near"]))
    assert "cuts a part of the LoRA away" in text
    assert "93%" not in text


def test_lines_are_short_sentences() -> None:
    for name, kind in KINDS.items():
        for report in (RELATED, PRUNED):
            for line in said(report, kind):
                assert line.text.endswith("."), name
                assert len(line.text) < 260, line.text
