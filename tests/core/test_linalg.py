"""The leading singular triplets against float64, where the spectrum is kind and where it is not."""

import pytest
import torch
from torch import Tensor

from lora_transfer.core import eigensolvers, linalg
from lora_transfer.core.eigensolvers import Eigensolver, Measured, by_rule, partial, straighten, whole
from lora_transfer.core.errors import ShapeMismatch
from lora_transfer.core.lapack import leading_eigenpairs
from lora_transfer.core.linalg import complete_bases, gram, leading_svd


def with_spectrum(shape: tuple[int, int], singular_values: Tensor, generator: torch.Generator) -> Tensor:
    """A float32 matrix (m, n) with these singular values."""
    left, _ = torch.linalg.qr(torch.randn(shape[0], len(singular_values), generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(shape[1], len(singular_values), generator=generator, dtype=torch.float64))
    return (left * singular_values.double() @ right.mT).float()


def subspace_error(basis: Tensor, exact: Tensor) -> float:
    """||P - P'|| / ||P|| of the projectors on two bases (m, k)."""
    basis, exact = basis.double(), exact.double()
    difference = basis @ basis.mT - exact @ exact.mT
    return float(difference.norm()) / basis.shape[1] ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 7, 40])
def test_the_partial_solver_gives_the_largest_eigenpairs_from_the_lower_triangle_alone(
    generator: torch.Generator, dtype: torch.dtype, count: int
) -> None:
    noise = torch.randn(40, 60, generator=generator, dtype=torch.float64)
    symmetric = (noise @ noise.mT).to(dtype)
    lower = symmetric.tril() + torch.full((40, 40), float("nan"), dtype=dtype).triu(1)
    before = lower.clone()
    values, vectors = leading_eigenpairs(lower, count)
    assert torch.equal(lower.nan_to_num(), before.nan_to_num())
    expected = torch.linalg.eigvalsh(symmetric.double()).flip(0)[:count]
    limit = 1e-5 if dtype == torch.float32 else 1e-12
    assert torch.allclose(values.double(), expected, rtol=limit, atol=limit * float(expected[0]))
    assert float((symmetric @ vectors - vectors * values).norm() / symmetric.norm()) < limit
    assert float((vectors.mT @ vectors - torch.eye(count, dtype=dtype)).abs().max()) < limit


def test_the_partial_solver_refuses_what_is_no_square_and_what_is_not_finite() -> None:
    with pytest.raises(ShapeMismatch, match="found 5 of 4 rows"):
        leading_eigenpairs(torch.eye(4), 5)
    with pytest.raises(ShapeMismatch, match="NaN or infinity"):
        leading_eigenpairs(torch.full((20, 20), float("nan")), 3)


@pytest.mark.parametrize("shape", [(37, 80), (8, 8), (3, 20)])
def test_the_gram_matrix_is_right_in_its_lower_triangle(generator: torch.Generator, shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=generator)
    assert torch.allclose(gram(matrix).tril(), (matrix @ matrix.mT).tril(), rtol=1e-5, atol=1e-5)


@pytest.fixture
def float32_from_200(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of tests are small; what they test is the choice of precision."""
    monkeypatch.setattr(linalg, "FLOAT32_FROM", 200)


@pytest.mark.usefixtures("float32_from_200")
@pytest.mark.parametrize("shape", [(200, 300), (300, 200), (200, 200)])
@pytest.mark.parametrize("count", [40, 100, 150, 200])
def test_the_leading_space_is_that_of_float64(generator: torch.Generator, shape: tuple[int, int], count: int) -> None:
    matrix = with_spectrum(shape, torch.arange(1, 201) ** -0.5, generator)
    found = leading_svd(matrix, count)
    left, singular_values, right_t = torch.linalg.svd(matrix.double(), full_matrices=False)
    assert found.precise == (count > 100)
    assert torch.allclose(found.singular_values.double(), singular_values[:count], rtol=1e-5)
    assert subspace_error(found.left, left[:, :count]) < 1e-4
    assert subspace_error(found.right, right_t.mT[:, :count]) < 1e-4
    one = torch.eye(count)
    assert float((found.right.mT @ found.right - one).abs().max()) < 2e-6


@pytest.mark.usefixtures("float32_from_200")
def test_a_gap_that_float32_cannot_see_is_found_in_float64(generator: torch.Generator) -> None:
    values = torch.linspace(1, 0.5, 200, dtype=torch.float64)
    values[60:] -= 0.1
    values[59] = values[60] + 2e-6  # the 60th and the 61st all but equal
    matrix = with_spectrum((200, 260), values, generator)
    assert leading_svd(matrix, 60).precise
    assert not leading_svd(matrix, 50).precise
    weak = with_spectrum((200, 260), torch.cat([torch.ones(20), torch.full((180,), 1e-4)]), generator)
    assert leading_svd(weak, 60).precise  # directions so weak that float32's Gram matrix has lost them


def test_small_matrices_are_always_decomposed_in_float64(generator: torch.Generator) -> None:
    near = with_spectrum((4, 288), torch.tensor([1.8863, 1.8862, 1.8861, 1.0]), generator)
    left, _, _ = torch.linalg.svd(near.double(), full_matrices=False)
    found = leading_svd(near, 2)
    assert found.precise
    assert subspace_error(found.left, left[:, :2]) < 1e-5


def test_of_a_weight_of_zeros_nothing_leads() -> None:
    found = leading_svd(torch.zeros(40, 60), 0)
    assert (found.left.shape, found.right.shape) == ((40, 0), (60, 0))


def test_complete_bases_need_no_eigensolver_and_are_refused_below_full_rank(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.linalg, "eigh", None)
    for shape in ((12, 30), (30, 12), (12, 12)):
        matrix = torch.randn(*shape, generator=generator, dtype=torch.float64)
        bases = complete_bases(matrix)
        assert bases is not None
        left, right = bases
        assert torch.allclose(left @ (left.mT @ matrix), matrix)
        assert torch.allclose((matrix @ right) @ right.mT, matrix)
        assert torch.allclose(right.mT @ right, torch.eye(12, dtype=torch.float64), atol=1e-12)
    assert complete_bases(torch.ones(12, 30)) is None
    assert complete_bases(torch.zeros(12, 12)) is None


def failing_with(words: str) -> Eigensolver:
    def fail(lower: Tensor, count: int) -> tuple[Tensor, Tensor]:
        raise RuntimeError(words)

    return fail


def test_on_a_card_the_fastest_solver_that_is_right_is_taken_for_each_size(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(eigensolvers.time, "perf_counter", lambda: next(clock))

    def wrong(lower: Tensor, count: int) -> tuple[Tensor, Tensor]:
        values, vectors = whole(lower, count)
        return values, vectors + 1e-3

    def slow(lower: Tensor, count: int) -> tuple[Tensor, Tensor]:
        next(clock)
        return partial(lower, count)

    matrix = torch.randn(30, 50, generator=generator)
    measured = Measured((wrong, slow, by_rule), by_rule_on_cpu=False)
    for count in (4, 9):
        values, vectors = measured(gram(matrix), count)
        again, _ = measured(gram(matrix), count)
        assert torch.equal(values, again)
        assert vectors.shape == (30, count)
    assert set(measured.chosen.values()) == {by_rule}
    hopeless = Measured((wrong,), by_rule_on_cpu=False)
    assert torch.allclose(hopeless(gram(matrix), 4)[0], partial(gram(matrix), 4)[0])
    assert not hopeless.chosen
    for words in ("cusolver error: CUSOLVER_STATUS_INVALID_VALUE", "linalg.eigh: failed to converge"):
        failing = Measured((failing_with(words), partial), by_rule_on_cpu=False)
        assert torch.equal(failing(gram(matrix), 4)[0], partial(gram(matrix), 4)[0])
        assert set(failing.chosen.values()) == {partial}
    with pytest.raises(RuntimeError, match="out of memory"):
        Measured((failing_with("CUDA out of memory"), partial), by_rule_on_cpu=False)(gram(matrix), 4)
    away_from_the_card = Measured((wrong,))
    assert torch.equal(away_from_the_card(gram(matrix), 4)[0], by_rule(gram(matrix), 4)[0])


@pytest.mark.gpu
def test_a_card_decomposes_as_float64_does(generator: torch.Generator) -> None:
    matrix = with_spectrum((1280, 2048), torch.arange(1, 1281) ** -0.35, generator)
    left, _, right_t = torch.linalg.svd(matrix.double(), full_matrices=False)
    found = leading_svd(matrix.cuda(), 320, Measured())
    assert subspace_error(found.left.cpu(), left[:, :320]) < 2e-4
    assert subspace_error(found.right.cpu(), right_t.mT[:, :320]) < 2e-4


def test_vectors_that_a_card_leaves_a_little_skew_are_made_orthonormal(generator: torch.Generator) -> None:
    exact = torch.linalg.qr(torch.randn(640, 320, generator=generator, dtype=torch.float64))[0]
    skew = (exact + 1e-4 * torch.randn(640, 320, generator=generator, dtype=torch.float64) / 640**0.5).float()
    straight = straighten(skew).double()
    assert (skew.double().mT @ skew.double() - torch.eye(320)).norm() > 1e-3
    assert (straight.mT @ straight - torch.eye(320)).norm() < 1e-4
    assert (straight - exact).norm() <= (skew - exact).norm()
