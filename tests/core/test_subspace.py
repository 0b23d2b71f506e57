from typing import Literal

import pytest
import torch

from lora_transfer.core.errors import InvalidSetting
from lora_transfer.core.linalg import leading_svd
from lora_transfer.core.subspace import RankRule, decompose, subspaces


@pytest.mark.parametrize("shape", [(48, 40), (40, 48), (44, 44), (24, 45)])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-11), (torch.float32, 3e-6)])
def test_the_gram_route_gives_the_singular_value_decomposition(
    generator: torch.Generator, shape: tuple[int, int], dtype: torch.dtype, limit: float
) -> None:
    matrix = torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
    left, singular_values, right, _ = leading_svd(matrix, min(shape))
    assert left.dtype == singular_values.dtype == right.dtype == dtype
    assert torch.allclose(singular_values, torch.linalg.svdvals(matrix), rtol=limit, atol=limit)
    one = torch.eye(min(shape), dtype=dtype)
    assert float((left.mT @ left - one).abs().max()) < limit
    assert float((right.mT @ right - one).abs().max()) < limit
    assert float((left * singular_values @ right.mT - matrix).norm() / matrix.norm()) < limit


def test_directions_with_a_singular_value_of_zero_are_left_out(generator: torch.Generator) -> None:
    thin = torch.randn(30, 4, generator=generator) @ torch.randn(4, 20, generator=generator)
    left, singular_values, right, _ = leading_svd(thin, 20)
    assert (left.shape, len(singular_values), right.shape) == ((30, 4), 4, (20, 4))
    assert len(leading_svd(torch.zeros(5, 7), 3).singular_values) == 0


def test_rank_rules_give_the_number_of_directions() -> None:
    weight = torch.zeros(4, 9)
    weight[range(4), range(4)] = torch.tensor([3.0, 2.0, 1.0, 1.0])  # energies 9, 4, 1, 1 of 15

    def rank(kind: Literal["fixed", "fraction", "energy"], amount: float, of: torch.Tensor = weight) -> int:
        return RankRule(kind, amount).rank(decompose(of, 4))

    assert rank("fixed", 3) == 3
    assert rank("fixed", 320) == 4
    assert rank("fraction", 0.5) == 2
    assert rank("energy", 0.6) == 1
    assert rank("energy", 0.61) == 2
    assert rank("energy", 1.0) == 4
    assert rank("energy", 0.9, torch.zeros(4, 9)) == 0


@pytest.mark.parametrize(("kind", "amount"), [("fixed", 0), ("fraction", 1.2), ("energy", -1)])
def test_a_rank_rule_out_of_range_is_refused(kind: str, amount: float) -> None:
    with pytest.raises(InvalidSetting, match=f"{kind}: expected"):
        RankRule(kind, amount)  # pyright: ignore[reportArgumentType]


def test_both_weights_are_cut_at_the_larger_rank(generator: torch.Generator) -> None:
    flat = torch.randn(30, 30, generator=generator)
    steep = flat @ torch.diag(0.8 ** torch.arange(30.0))
    source, target = subspaces(flat, steep, RankRule("energy", 0.9))
    assert source.rank == target.rank == RankRule("energy", 0.9).rank(decompose(flat, 30))
    assert source.energy == pytest.approx(0.9, abs=0.03)
    assert target.energy > source.energy


def test_the_work_is_linear_algebra_alone_under_inference_mode(generator: torch.Generator) -> None:
    with torch.inference_mode():
        source, _ = subspaces(torch.randn(20, 12), torch.randn(20, 12), RankRule("fraction", 0.5))
    assert source.rank == 6
