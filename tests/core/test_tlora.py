"""The part of a weight from which a T-LoRA was trained, against its formula in float64."""

import pytest
import torch
from torch import Tensor

from lora_transfer.core.delta import LowRankDelta
from lora_transfer.core.tlora import find_start

SHAPES = [(23, 17), (17, 23), (19, 19)]


def triplets(weight: Tensor, rank: int, first: int) -> Tensor:
    """The sum of `rank` singular triplets from the triplet `first` on, in float64."""
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    chosen = slice(first, first + rank)
    return left[:, chosen] @ values[chosen].diag() @ right[chosen]


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def trained_from(start: Tensor, rank: int) -> LowRankDelta:
    """Factors near a start, with the signs and the order of another decomposition."""
    left, values, right = torch.linalg.svd(start.float(), full_matrices=False)
    signs = torch.tensor([1.0, -1.0]).repeat(rank)[:rank]
    up = (left[:, :rank] * values[:rank] * signs).flip(1)
    down = (right[:rank] * signs[:, None]).flip(0)
    return LowRankDelta(up + 0.02 * noise(*up.shape), down + 0.02 * noise(*down.shape, seed=2))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("place", ["leading", "middle", "last"])
def test_the_start_is_the_sum_of_the_triplets_that_the_factors_are_near(shape: tuple[int, int], place: str) -> None:
    weight, rank, count = noise(*shape, seed=3), 5, min(shape)
    expected = triplets(weight, rank, {"leading": 0, "middle": (count - rank) // 2, "last": count - rank}[place])
    start = find_start(trained_from(expected, rank), weight)
    assert start is not None
    assert torch.allclose(start.dense().double(), expected, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_rank_above_the_short_side_starts_from_the_whole_weight(shape: tuple[int, int]) -> None:
    weight, short = noise(*shape, seed=4), min(shape)
    whole = trained_from(weight, short)
    padded = LowRankDelta(
        torch.cat([whole.up, torch.zeros(shape[0], 3)], 1), torch.cat([whole.down, torch.zeros(3, shape[1])])
    )
    start = find_start(padded, weight)
    assert start is not None
    assert torch.allclose(start.dense(), weight, atol=1e-5)


def test_a_weight_of_a_smaller_rank_than_the_factors_is_the_start_itself() -> None:
    weight = noise(23, 2, seed=5) @ noise(2, 17, seed=6)
    start = find_start(trained_from(weight, 5), weight)
    assert start is not None
    assert torch.allclose(start.dense(), weight, atol=1e-5)


def test_of_a_weight_of_zeros_nothing_is_subtracted() -> None:
    start = find_start(LowRankDelta(noise(23, 5), noise(5, 17)), torch.zeros(23, 17))
    assert start is not None
    assert start.norm() == 0


@pytest.mark.parametrize("factors", [noise(23, 5), torch.zeros(23, 5)], ids=["random", "zeros"])
def test_factors_that_are_near_no_triplets_have_no_start(factors: Tensor) -> None:
    assert find_start(LowRankDelta(factors, noise(5, 17)), noise(23, 17, seed=7)) is None
