"""The training loop of Refine on one linear layer: y = x (W + up down)^T."""

import dataclasses
import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lora_transfer.core.check import measure
from lora_transfer.core.delta import LowRankDelta
from lora_transfer.core.errors import InvalidSetting, NotMeasurable
from lora_transfer.core.refine.factors import balance_factors, make_zero_factors
from lora_transfer.core.refine.loop import RefineSettings, Step, refine
from lora_transfer.core.refine.parameterisation import FreeFactors, Trainable, measure_sizes
from lora_transfer.core.refine.teacher_samples import Match, TeacherSamples, choose_aims, make_schedule

OUT, IN, RANK, ROWS, HELD_OUT = 11, 13, 3, 53, 10
LEVELS = torch.linspace(0.5, 3, ROWS)
LONG = RefineSettings(steps=240, batch=16, rate=0.1, patience=0)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


INPUTS, SOURCE, TARGET = random(1, ROWS, IN), random(2, OUT, IN), random(3, OUT, IN)
LORA = LowRankDelta(0.3 * random(4, OUT, RANK), 0.3 * random(5, RANK, IN))
TRANSFERRED = LowRankDelta(LORA.up + 0.2 * random(6, OUT, RANK), LORA.down)


@dataclasses.dataclass
class Layer:
    """A Student. fits: rows that fit into its memory; limit: the largest number that it can predict; lightens: whether
    it can use fewer rows at a time."""

    trainable: Trainable
    rows_at_once: int = ROWS
    fits: int = ROWS
    limit: float = math.inf
    lightens: bool = True
    trained_on: list[list[int]] = dataclasses.field(default_factory=list[list[int]])

    def predict(self, picks: Tensor) -> Tensor:
        if len(picks) > self.fits:
            raise torch.OutOfMemoryError(f"{len(picks)} rows")
        if torch.is_grad_enabled():
            self.trained_on.append(picks.tolist())
        up, down = self.trainable["layer"].factors()
        answers = INPUTS[picks] @ (TARGET + up @ down).mT
        return torch.where(answers.abs() < self.limit, answers, math.nan)

    def use_less_memory(self, error: RuntimeError) -> bool:
        self.rows_at_once = max(1, self.rows_at_once // 2)
        return self.lightens


def student(start: LowRankDelta | None = TRANSFERRED, *, rank: int = RANK, **traits: float) -> Layer:
    generator = torch.Generator().manual_seed(0)
    up, down = make_zero_factors((OUT, IN), rank, generator) if start is None else balance_factors(start, generator)
    return Layer({"layer": FreeFactors(up.requires_grad_(), down.requires_grad_())}, **traits)  # pyright: ignore[reportArgumentType]


def make_samples(aim: LowRankDelta = LORA, base: Tensor = TARGET) -> TeacherSamples:
    """Teacher samples with the predictions of `base` with a delta."""
    return TeacherSamples(INPUTS @ (base + aim.dense()).mT, LEVELS, HELD_OUT, (INPUTS @ TARGET.mT)[-HELD_OUT:])


def finished(trained: Layer, settings: RefineSettings, samples: TeacherSamples | None = None) -> Step:
    return list(refine(trained, samples or make_samples(), settings))[-1]


def scores(steps: Iterator[Step]) -> list[float]:
    return [step.score for step in steps if step.score is not None]


@pytest.mark.parametrize("start", [TRANSFERRED, None], ids=["transferred", "from zeros"])
def test_where_a_low_rank_solution_exists_the_score_rises_to_1(start: LowRankDelta | None) -> None:
    found = scores(refine(student(start), make_samples(), LONG))
    assert found[0] < 0.8
    assert found[len(found) // 2] > found[0]
    assert found[-1] > 0.99


def test_from_zeros_starts_at_0_and_the_solution_itself_at_1() -> None:
    nothing, whole = (next(refine(student(start), make_samples(), LONG)) for start in (None, LORA))
    assert nothing.score == pytest.approx(0, abs=1e-6)
    assert whole.score == pytest.approx(1)
    assert nothing.loss is None


@pytest.mark.parametrize("rate", [0.01, 0.3, 3.0, 1000.0])
def test_the_best_is_never_below_the_start(rate: float) -> None:
    steps = list(refine(student(), make_samples(), dataclasses.replace(LONG, steps=30, rate=rate)))
    assert steps[-1].best.score >= steps[0].best.score
    assert steps[-1].best.score == max(scores(iter(steps)))


def test_where_no_step_is_better_the_best_is_the_start_itself() -> None:
    trained = student()
    start = [one.detach().clone() for one in trained.trainable["layer"].parameters]
    best = finished(trained, dataclasses.replace(LONG, steps=9, rate=1000.0)).best
    assert best.step == 0
    assert torch.equal(best.deltas["layer"].up, start[0])
    assert torch.equal(best.deltas["layer"].down, start[1])
    assert not torch.equal(trained.trainable["layer"].parameters[0], start[0])


def test_a_run_stops_early_if_the_score_no_longer_rises_but_never_with_patience_0() -> None:
    settings = dataclasses.replace(LONG, steps=60, checks=12, rate=1000.0, patience=2)
    stopped = finished(student(), settings)
    assert (stopped.number, stopped.ended) == (10, "the score has not risen for 2 checks")
    assert finished(student(), dataclasses.replace(settings, patience=0)).number == 60


def test_the_score_is_measured_as_often_as_set_and_at_the_last_step() -> None:
    for checks, steps in ((6, 60), (7, 60), (1, 9), (20, 9)):
        settings = dataclasses.replace(LONG, steps=steps, checks=checks)
        taken = [step.number for step in refine(student(), make_samples(), settings) if step.score is not None]
        assert taken[0] == 0
        assert taken[-1] == steps
        assert len(taken) == min(checks, steps) + 1


def test_without_steps_the_result_is_the_start() -> None:
    (only,) = refine(student(), make_samples(), dataclasses.replace(LONG, steps=0))
    assert only.best.step == 0
    assert only.ended == "nothing to do: steps is 0"


def test_after_a_loss_that_is_not_finite_the_run_continues_from_the_best_at_half_the_rate() -> None:
    """Adam's first step moves every entry of a factor by its rate, whatever the gradient."""
    trained = student()
    up = trained.trainable["layer"].parameters[0]
    start, settings = up.detach().clone(), dataclasses.replace(LONG, steps=20, checks=1)
    run = refine(trained, make_samples(), settings)
    next(run), next(run)
    first = float((up.detach() - start).abs().max())
    trained.limit = 0.0
    broken = next(run)
    assert broken.loss is None
    assert torch.equal(up, start)
    trained.limit = math.inf
    next(run)
    after = float((up.detach() - start).abs().max())
    share = 3 * math.cos(math.pi / 20) * 0.95 + 3 * 0.05  # the third warm step beside the first, on the cosine
    assert after == pytest.approx(first * share / 2, rel=1e-3)
    assert list(run)[-1].ended == "all steps done"


def test_a_loss_that_is_never_finite_ends_the_run_with_the_reason() -> None:
    trained = student()
    run = refine(trained, make_samples(), LONG)
    start = next(run)
    trained.limit = 0.0
    last = list(run)[-1]
    assert last.number == 4
    assert last.ended == "the loss was not finite 4 times, each time at half the rate"
    assert last.best == start.best


def test_a_start_without_a_finite_score_is_an_error() -> None:
    with pytest.raises(NotMeasurable, match="expected finite numbers, found NaN or infinity"):
        next(refine(student(limit=0.0), make_samples(), LONG))


def test_the_same_seed_gives_the_same_run_bit_by_bit_and_another_seed_another_run() -> None:
    def run(seed: int) -> list[Step]:
        return list(refine(student(), make_samples(), dataclasses.replace(LONG, steps=20, seed=seed)))

    one, same, other = run(1), run(1), run(2)
    assert [(step.loss, step.score) for step in one] == [(step.loss, step.score) for step in same]
    assert torch.equal(one[-1].best.deltas["layer"].up, same[-1].best.deltas["layer"].up)
    assert [step.loss for step in one] != [step.loss for step in other]


def test_a_caller_that_stops_iterating_has_the_best_so_far() -> None:
    settings = dataclasses.replace(LONG, steps=20, checks=20)
    stopped = next(step for step in refine(student(), make_samples(), settings) if step.number == 9)
    assert stopped.ended is None
    best = stopped.best.deltas["layer"]
    assert 0 < stopped.best.step <= 9
    assert next(refine(student(best), make_samples(), settings)).score == pytest.approx(stopped.best.score, abs=1e-5)


@pytest.mark.parametrize("rows_at_once", [1, 5])
def test_the_parts_of_a_batch_give_the_step_of_the_whole(rows_at_once: int) -> None:
    settings = dataclasses.replace(LONG, steps=5)
    parts, whole = finished(student(rows_at_once=rows_at_once), settings), finished(student(), settings)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert torch.allclose(parts.best.deltas["layer"].up, whole.best.deltas["layer"].up, atol=1e-5)


def test_a_step_that_does_not_fit_is_tried_again_with_less_memory() -> None:
    settings, tight = dataclasses.replace(LONG, steps=5), student(fits=3)
    found = finished(tight, settings)
    assert tight.rows_at_once <= 3
    assert torch.allclose(
        found.best.deltas["layer"].up, finished(student(rows_at_once=3), settings).best.deltas["layer"].up, atol=1e-5
    )


def test_an_error_is_raised_if_memory_cannot_be_reduced() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        finished(student(fits=3, lightens=False), LONG)


def test_each_row_is_used_once_before_any_is_used_again_and_held_out_rows_never_are() -> None:
    trained, seen = student(), ROWS - HELD_OUT
    finished(trained, dataclasses.replace(LONG, steps=2 * seen, batch=4))
    order = [row for batch in trained.trained_on for row in batch]
    rounds = [order[first : first + seen] for first in range(0, len(order), seen)]
    assert len(rounds) == 8
    assert all(sorted(one) == list(range(seen)) for one in rounds)
    assert rounds[0] != rounds[1]


def test_a_batch_larger_than_the_samples_uses_rows_twice() -> None:
    trained = student()
    finished(trained, dataclasses.replace(LONG, steps=1, batch=100))
    assert sum(len(part) for part in trained.trained_on) == 100


@pytest.mark.parametrize("held_out", [0, ROWS])
def test_samples_without_rows_for_training_or_for_the_score_are_an_error(held_out: int) -> None:
    with pytest.raises(InvalidSetting, match=f"found {held_out} held out of {ROWS}"):
        TeacherSamples(INPUTS, LEVELS, held_out, INPUTS[ROWS - held_out :])


def test_the_loss_of_a_half_precision_student_is_in_float32() -> None:
    """A difference within the rounding of bfloat16 is still an error, and at low noise a large one."""

    class Half(Layer):
        def predict(self, picks: Tensor) -> Tensor:
            return super().predict(picks).bfloat16()

    trained = Half(student().trainable)
    up, down = trained.trainable["layer"].factors()
    answers = (INPUTS @ (TARGET + up @ down).mT).detach().bfloat16().float()
    samples = TeacherSamples(answers + 1e-3, torch.full((ROWS,), 0.1), HELD_OUT, torch.zeros(HELD_OUT, OUT))
    assert finished(trained, dataclasses.replace(LONG, steps=1), samples).loss == pytest.approx(1e-4, rel=1e-2)


@pytest.mark.parametrize("rank", [RANK, 2 * RANK, IN + 4])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_balanced_factors_give_the_same_delta(rank: int, scale: float) -> None:
    """Outside its three directions there are only rounding errors, as from float32 sums and products."""
    beside = rank - RANK
    up, down = 1e-7 * random(7, OUT, beside), random(8, beside, IN)
    delta = LowRankDelta(scale * torch.cat([LORA.up, up], 1), torch.cat([LORA.down, down]))
    up, down = balance_factors(delta, torch.Generator().manual_seed(0))
    assert (up.shape, down.shape) == ((OUT, rank), (rank, IN))
    assert float((up @ down - delta.dense()).norm()) < 1e-5 * delta.norm()
    weighing = up.norm(dim=0) > 0
    assert int(weighing.sum()) == RANK
    assert torch.allclose(up.norm(dim=0)[weighing], down.norm(dim=1)[weighing], rtol=1e-4)


def test_a_delta_of_zeros_has_gradients_that_are_not_zero() -> None:
    zero = LowRankDelta(torch.zeros(OUT, 20), torch.zeros(20, IN))
    up, down = (one.requires_grad_() for one in balance_factors(zero, torch.Generator().manual_seed(0)))
    (INPUTS @ (up @ down).mT - 1).square().sum().backward()
    assert not (up @ down).any()
    assert up.grad is not None
    assert bool((up.grad.norm(dim=0) > 0).all())
    assert finished(student(zero), LONG).best.score > 0.99


def test_a_rate_is_a_share_of_each_factors_own_size_and_zeros_and_small_ones_have_one_too() -> None:
    ones = torch.ones(2, 2)
    two = {"a": FreeFactors(4 * ones, 2 * ones), "b": FreeFactors(0.1 * ones, 0 * ones)}
    assert measure_sizes(two) == pytest.approx([4, 2, 0.6, 0.1])
    assert measure_sizes({"a": FreeFactors(0 * ones, 0 * ones)}) == [0.1, 0.1]


def test_zero_factors_change_nothing_and_have_no_more_rank_than_the_weight() -> None:
    up, down = make_zero_factors((OUT, IN), 99, torch.Generator().manual_seed(0))
    assert (up.shape, down.shape) == ((OUT, OUT), (OUT, IN))
    assert not up.any()
    assert float(down.square().mean()) == pytest.approx(1 / (3 * IN), rel=0.3)


@pytest.mark.parametrize("steps", [1, 7])
def test_noise_levels_go_down_from_pure_noise_and_all_samplings_cover_the_schedule(steps: int) -> None:
    offsets = [index / 10 for index in range(10)]
    for offset in offsets:
        levels = make_schedule(steps, offset)
        assert len(levels) == steps + 1
        assert levels[0] == 1
        assert levels == sorted(levels, reverse=True)
        assert levels[-1] > 0
    every = sorted({0.0, *(level for offset in offsets for level in make_schedule(steps, offset))})
    assert max(later - one for one, later in itertools.pairwise(every)) < 1.01 / (10 * steps)


def test_the_aims_of_both_matches_and_what_differences_need() -> None:
    teacher, plain, bare = random(7, 3, 2), random(8, 3, 2), random(9, 3, 2)
    assert torch.equal(choose_aims("outputs", teacher, None, None), teacher)
    assert torch.equal(choose_aims("differences", teacher, plain, bare), bare + teacher - plain)
    with pytest.raises(ValueError, match="without the adapter"):
        choose_aims("differences", teacher, plain, None)


@pytest.mark.parametrize(("match", "figure"), [("outputs", "gap_closed"), ("differences", "change_match")])
def test_the_score_is_the_figure_of_a_check(match: Match, figure: str) -> None:
    teacher, plain, bare = (
        INPUTS @ weight.mT for weight in (SOURCE + LORA.dense(), SOURCE, TARGET)
    )  # o_s', o_s and o_t
    samples = TeacherSamples(choose_aims(match, teacher, plain, bare), LEVELS, HELD_OUT, bare[-HELD_OUT:])
    levels = LEVELS[:, None]
    kept = slice(-HELD_OUT, None)
    on_target, on_source, apart = (
        (one / levels)[None, kept] for one in (INPUTS @ TRANSFERRED.dense().mT, teacher - plain, bare - teacher)
    )
    checked = measure(1.0, on_target, on_source, apart).pooled
    assert next(refine(student(), samples, LONG)).score == pytest.approx(getattr(checked, figure), abs=1e-5)
