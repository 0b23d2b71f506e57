import itertools
from collections.abc import Callable

import pytest
import torch

from lora_transfer.core.matching.alignment import align_freely, align_in_order


def total(scores: torch.Tensor, taken: list[int | None], floor: float) -> float:
    return sum(float(scores[source, target]) - floor for target, source in enumerate(taken) if source is not None)


@pytest.mark.parametrize("seed", range(20))
def test_no_assignment_in_order_is_better_than_the_one_found(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(4, 4, generator=generator)
    found = align_in_order(scores, 0.3)
    sources = [source for source in found if source is not None]
    assert sources == sorted(sources)
    possible = [
        list(taken)
        for taken in itertools.product([None, *range(4)], repeat=4)
        if (some := [source for source in taken if source is not None]) == sorted(some)
    ]
    best = max(total(scores, taken, 0.3) for taken in possible)
    assert total(scores, found, 0.3) == pytest.approx(best)


def test_the_free_assignment_uses_each_source_once(generator: torch.Generator) -> None:
    scores = torch.rand(5, 7, generator=generator)
    sources = [source for source in align_freely(scores, 0.0) if source is not None]
    assert sorted(sources) == list(range(5))


@pytest.mark.parametrize("align", [align_in_order, align_freely])
def test_scores_below_the_floor_and_impossible_pairs_are_never_assigned(
    align: Callable[[torch.Tensor, float], list[int | None]],
) -> None:
    scores = torch.tensor([[0.9, 0.1, torch.nan], [torch.nan, 0.1, torch.nan]])
    assert align(scores, 0.2) == [0, None, None]
    assert align(torch.empty(0, 2), 0.2) == [None, None]
    assert align(torch.empty(2, 0), 0.2) == []
