import pytest
import torch

from lora_transfer.core.delta import LowRankDelta
from lora_transfer.core.errors import ShapeMismatch


@pytest.fixture
def delta(generator: torch.Generator) -> LowRankDelta:
    return LowRankDelta(torch.randn(48, 3, generator=generator), torch.randn(3, 40, generator=generator))


def test_factors_that_do_not_fit_are_refused_with_their_shapes() -> None:
    with pytest.raises(ShapeMismatch, match=r"\(5, 2\) and \(3, 4\)"):
        LowRankDelta(torch.zeros(5, 2), torch.zeros(3, 4))


def test_norm_and_inner_product_are_those_of_the_dense_matrices(delta: LowRankDelta) -> None:
    other = LowRankDelta(delta.up.flip(0), delta.down.flip(1))
    assert delta.norm() == pytest.approx(float(delta.dense().norm()), rel=1e-5)
    assert delta.inner(other) == pytest.approx(float((delta.dense() * other.dense()).sum()), rel=1e-4)


def test_sum_and_difference_are_exact_at_the_sum_of_the_ranks(delta: LowRankDelta) -> None:
    other = LowRankDelta(delta.up[:, :2], delta.down[:2])
    assert delta.plus(other).rank == 5
    assert torch.allclose(delta.minus(other).dense(), delta.dense() - other.dense(), atol=1e-6)


def test_the_norm_of_a_tiny_difference_keeps_its_digits(delta: LowRankDelta) -> None:
    nudged = LowRankDelta(delta.up * (1 + 1e-5), delta.down)
    difference = nudged.minus(delta).norm() / delta.norm()
    assert difference == pytest.approx(1e-5, rel=0.02)


def test_svd_gives_the_delta_back(delta: LowRankDelta) -> None:
    left, singular_values, right = delta.svd()
    assert torch.allclose(left * singular_values @ right.mT, delta.dense(), atol=1e-5)
    assert torch.allclose(left.mT @ left, torch.eye(3), atol=1e-5)


def test_truncation_is_the_best_approximation_and_says_what_it_loses(delta: LowRankDelta) -> None:
    cut, lost = delta.truncated(2)
    singular_values = torch.linalg.svdvals(delta.dense())
    assert cut.rank == 2
    assert lost == pytest.approx(float(singular_values[2] ** 2 / singular_values.square().sum()), rel=1e-3)
    assert float((cut.dense() - delta.dense()).norm()) == pytest.approx(float(singular_values[2]), rel=1e-3)


def test_truncating_to_a_larger_rank_or_a_zero_delta_loses_nothing(delta: LowRankDelta) -> None:
    assert delta.truncated(9)[1] == 0.0
    assert LowRankDelta(delta.up * 0, delta.down).truncated(2)[1] == 0.0


def test_the_row_basis_spans_exactly_the_inputs_that_are_read(delta: LowRankDelta) -> None:
    doubled = LowRankDelta(torch.cat([delta.up, delta.up], 1), torch.cat([delta.down, delta.down], 0))  # rank 3 in 6
    basis = doubled.bases()[1]
    assert basis.shape == (40, 6)
    assert torch.linalg.matrix_rank(basis) == 3
    assert torch.allclose(doubled.dense() @ basis @ basis.mT, doubled.dense(), atol=1e-4)


def test_a_delta_wider_than_its_weight_works(generator: torch.Generator) -> None:
    wide = LowRankDelta(torch.randn(4, 9, generator=generator), torch.randn(9, 6, generator=generator))
    assert wide.norm() == pytest.approx(float(wide.dense().norm()), rel=1e-5)
    assert wide.bases()[1].shape == (6, 4)
