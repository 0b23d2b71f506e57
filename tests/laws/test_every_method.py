"""The laws of docs/method.md, sections 2 and 3, over the tuple METHODS."""

import dataclasses
from pathlib import Path

import pytest
import torch

from lora_transfer.core import methods
from lora_transfer.core.delta import LowRankDelta
from lora_transfer.core.methods import METHODS, LayerPairBases, Method, method_named
from lora_transfer.core.subspace import RankRule, Subspace
from tests import oracle
from tests.laws.conftest import RANK, Case, apply, make_case, relative_error

HALF = RankRule("fraction", 0.5)


def test_every_file_of_methods_is_in_the_tuple() -> None:
    folder = Path(str(methods.__file__)).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "method"}
    assert files == {method.name for method in METHODS} == set(oracle.METHOD_NAMES)


def test_matches_the_naive_oracle_in_float64(method: Method, case: Case) -> None:
    weights = case.source.cpu(), case.target.cpu()
    projectors = oracle.Projectors.of(*weights, case.rule.kind, case.rule.amount)
    expected = oracle.transfer(method.name, case.delta.dense().cpu(), *weights, projectors)
    assert relative_error(apply(method, case), expected) < 1e-10


def test_float32_stays_close_to_the_oracle(method: Method, shape: tuple[int, int]) -> None:
    case, exact = make_case(shape, HALF, dtype=torch.float32), make_case(shape, HALF)
    weights = case.source.cpu(), case.target.cpu()
    projectors = oracle.Projectors.of(*weights, "fraction", 0.5)
    expected = oracle.transfer(method.name, exact.delta.dense().cpu(), *weights, projectors)
    assert relative_error(apply(method, case), expected) < 1e-5


@pytest.mark.parametrize("zeroed", ["up", "both"])
def test_zero_in_gives_zero_out(method: Method, case: Case, zeroed: str) -> None:
    down = case.delta.down if zeroed == "up" else torch.zeros_like(case.delta.down)
    silent = dataclasses.replace(case, delta=LowRankDelta(torch.zeros_like(case.delta.up), down))
    assert apply(method, silent).norm() == 0


def test_is_linear_in_the_delta_or_affine_for_restore(method: Method, case: Case) -> None:
    if method.name == "restore_both":
        pytest.skip("its weight of the drift depends on the delta's size")
    other = make_case(case.delta.shape, case.rule, seed=9).delta
    summed = dataclasses.replace(case, delta=LowRankDelta(case.delta.up + 2 * other.up, case.delta.down))
    second = dataclasses.replace(case, delta=LowRankDelta(other.up, case.delta.down))
    expected = apply(method, case).dense() + 2 * apply(method, second).dense()
    if method.name == "restore":  # the drift on the rows of `down`, the same for all three, is added once to each
        drift = apply(method, case).dense() - case.delta.dense()
        expected = expected - 2 * drift
    assert relative_error(apply(method, summed), expected) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_shape_dtype_and_device(method: Method, shape: tuple[int, int], dtype: torch.dtype) -> None:
    case = make_case(shape, HALF, dtype=dtype)
    result = apply(method, case)
    assert result.shape == shape
    assert result.up.dtype == result.down.dtype == dtype
    assert result.up.device == result.down.device == case.source.device


def test_ranks_are_as_the_formulas_say(method: Method, case: Case) -> None:
    assert apply(method, case).rank == (2 * RANK if method.name == "prolora" else RANK)


def test_is_deterministic_and_leaves_its_inputs_alone(method: Method, case: Case) -> None:
    before = [case.delta.up.clone(), case.delta.down.clone(), case.source.clone(), case.target.clone()]
    first, second = apply(method, case), apply(method, case)
    assert torch.equal(first.up, second.up)
    assert torch.equal(first.down, second.down)
    after = (case.delta.up, case.delta.down, case.source, case.target)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_works_under_inference_mode(method: Method, case: Case) -> None:
    with torch.inference_mode():
        inside = apply(method, case).dense()
    assert torch.equal(inside, apply(method, case).dense())


def test_flipped_and_rotated_singular_vectors_change_nothing(method: Method, case: Case) -> None:
    generator = torch.Generator().manual_seed(4)
    bases = case.bases()

    def turned(subspace: Subspace) -> Subspace:
        signs = torch.randint(0, 2, (subspace.rank,), generator=generator) * 2.0 - 1
        square = torch.randn(subspace.rank, subspace.rank, generator=generator, dtype=torch.float64)
        rotation, _ = torch.linalg.qr(square)
        signs, rotation = signs.to(subspace.left.device), rotation.to(subspace.left.device)
        return dataclasses.replace(
            subspace, left=subspace.left * signs @ rotation, right=subspace.right * signs @ rotation
        )

    source, target = bases.source_and_target_subspaces()
    other = LayerPairBases((turned(source), turned(target)), bases.drift)
    assert relative_error(method.function(case.delta, other).delta, apply(method, case)) < 1e-10


@pytest.mark.parametrize("name", ["lora_x", "prolora", "prolora_full"])
def test_a_projection_never_increases_the_norm(name: str, case: Case) -> None:
    assert apply(method_named(name), case).norm() <= case.delta.norm() * (1 + 1e-12)


@pytest.mark.gpu
def test_a_card_gives_what_the_processor_gives(method: Method, shape: tuple[int, int]) -> None:
    case = make_case(shape, HALF, dtype=torch.float32)
    case = Case(case.delta.to("cpu"), case.source.cpu(), case.target.cpu(), case.rule)
    there = Case(case.delta.to("cuda"), case.source.cuda(), case.target.cuda(), case.rule)
    assert relative_error(apply(method, there).to("cpu"), apply(method, case)) < 1e-5
