"""The report of a training on pictures."""

import json
from dataclasses import replace

from lora_transfer.core.pictures.training import training_picture
from lora_transfer.core.reports.envelope import Identity
from lora_transfer.core.reports.train import TrainReport
from lora_transfer.core.subspace import RankRule

REPORT = TrainReport(
    base=Identity("base", "sha"),
    start=None,
    settings={"steps": 4},
    parameterisation="inside",
    rule=RankRule("fraction", 0.5),
    directions={"layer": 8},
    pictures=20,
    held_out=2,
    losses=(0.9, None, 0.5, 0.4),
    scores={0: 0.0, 2: 0.25, 4: 0.2},
    best_step=2,
    ended="all steps done",
    seconds=7.2,
)


def test_the_sentence_says_what_was_gained_on_which_pictures_and_where_it_started() -> None:
    assert REPORT.sentence() == (
        "the loss on 2 pictures that were not trained on is 25.0% below the model's own after 2 steps (4 steps on 20 "
        "pictures, 7 s; all steps done)"
    )
    further = replace(REPORT, start=Identity("a LoRA", "sha"), scores={0: 0.1, 2: 0.25}, held_out=0)
    assert "on the same pictures with other noise" in further.sentence()
    assert "it was 10.0% below it at the start" in further.sentence()


def test_a_training_without_improvement_says_what_it_outputs() -> None:
    worse = replace(REPORT, best_step=0)
    assert "the output is an empty LoRA" in worse.sentence()
    assert worse.lines()[0].tone == "warn"


def test_the_json_has_every_figure_and_the_picture_is_drawn() -> None:
    written = json.loads(REPORT.dumps())
    assert written["kind"] == "train"
    assert written["rank_rule"] == {"kind": "fraction", "amount": 0.5}
    assert written["directions"] == {"layer": 8}
    assert written["score"] == {"before": 0.0, "best": 0.25, "best_step": 2}
    assert training_picture(REPORT).ndim == 3
