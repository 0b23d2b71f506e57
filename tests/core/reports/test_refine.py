import json
from dataclasses import replace

import numpy

from lora_transfer.core.pictures.training import training_picture
from lora_transfer.core.reports.envelope import Identity
from lora_transfer.core.reports.refine import RefineReport, TeacherRun

SCORE, RING = (0x5E, 0xC9, 0x62), (0xEC, 0xEC, 0xF0)
WHO = Identity("a", "sha")
REPORT = RefineReport(
    source=WHO,
    target=WHO,
    adapter=WHO,
    start=WHO,
    settings={"steps": 4},
    match="outputs",
    teacher=TeacherRun(False, 8, 72, 9, 3.0),
    losses=(0.9, None, 0.5, 0.4),
    scores={0: 0.2, 2: 0.6, 4: 0.5},
    best_step=2,
    ended="all steps done",
    seconds=7.2,
)


def test_the_sentence_gives_start_best_and_cost() -> None:
    assert REPORT.sentence() == (
        "score 0.20 at the start, 0.60 after 2 steps; the score is the share of the way from the bare target to the "
        "source with its LoRA, on noised latents that were not trained on (4 steps, 7 s; teacher samples 3 s; all "
        "steps done)"
    )
    cached = replace(REPORT, teacher=replace(REPORT.teacher, from_cache=True), match="differences")
    assert "of the change that the LoRA makes to the source" in cached.sentence()
    assert "teacher samples from the cache" in cached.sentence()


def test_a_run_without_improvement_says_what_it_outputs() -> None:
    worse = replace(REPORT, best_step=0)
    assert worse.sentence().startswith("not improved: no step was better than the start, score 0.20; the output is")
    assert "the output is an empty LoRA" in replace(worse, start=None).sentence()


def test_the_json_has_every_figure_and_is_valid() -> None:
    written = json.loads(REPORT.dumps())
    assert written["kind"] == "refine"
    assert written["losses"] == [0.9, None, 0.5, 0.4]
    assert written["scores"] == [{"step": 0, "score": 0.2}, {"step": 2, "score": 0.6}, {"step": 4, "score": 0.5}]
    assert written["score"] == {"before": 0.2, "best": 0.6, "best_step": 2}
    assert written["teacher"]["rows"] == 72


def test_the_picture_shows_a_higher_score_higher_and_rings_the_best() -> None:
    low, high = (training_picture(replace(REPORT, scores={0: one, 4: one}, best_step=4)) for one in (0.2, 0.9))
    assert top_of(high, SCORE) < top_of(low, SCORE)
    assert top_of(high, RING, left=400) <= top_of(high, SCORE) - 3


def test_a_run_without_steps_and_a_harmful_run_are_drawn_too() -> None:
    none = replace(REPORT, losses=(), scores={0: -4.0}, best_step=0)
    assert training_picture(none).shape == training_picture(REPORT).shape


def top_of(drawn: numpy.ndarray, colour: tuple[int, int, int], left: int = 120) -> int:
    """The first row below the header in which a colour is found, beside the figures of the axes."""
    return 145 + int((drawn[145:410, left:820] == colour).all(-1).any(1).argmax())
