"""Laws that hold for particular methods."""

import dataclasses

import pytest
import torch

from lora_transfer.core.delta import LowRankDelta
from lora_transfer.core.linalg import project, reject
from lora_transfer.core.methods import METHODS, LayerPairBases, method_named
from lora_transfer.core.methods.rotate import direct_rotation
from lora_transfer.core.subspace import RankRule, Subspace, subspaces
from tests.laws.conftest import DEVICE, Case, apply, make_case, relative_error

HALF = RankRule("fraction", 0.5)
WHOLE = RankRule("fraction", 1.0)


def unmoved(case: Case) -> Case:
    return dataclasses.replace(case, target=case.source)


@pytest.mark.parametrize("name", ["copy", "prolora_full", "rotate", "restore", "restore_both"])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_between_equal_bases_the_delta_comes_back(
    name: str, dtype: torch.dtype, limit: float, shape: tuple[int, int]
) -> None:
    case = unmoved(make_case(shape, HALF, dtype=dtype))
    assert relative_error(apply(method_named(name), case), case.delta) < limit


def test_between_equal_bases_lora_x_keeps_what_lies_inside(shape: tuple[int, int]) -> None:
    case = unmoved(make_case(shape, HALF))
    source, _ = case.bases().source_and_target_subspaces()
    inside = source.left @ source.left.mT @ case.delta.dense() @ source.right @ source.right.mT
    assert relative_error(apply(method_named("lora_x"), case), inside) < 1e-10


def test_between_equal_bases_prolora_loses_the_cross_blocks_and_nothing_else(shape: tuple[int, int]) -> None:
    case = unmoved(make_case(shape, HALF))
    source, _ = case.bases().source_and_target_subspaces()
    delta = case.delta.dense()
    lost = project(source.left, reject(source.right, delta.mT).mT) + reject(
        source.left, project(source.right, delta.mT).mT
    )
    assert relative_error(apply(method_named("prolora"), case), delta - lost) < 1e-10


def test_prolora_loses_two_thirds_of_a_random_delta_at_a_90_percent_energy_cut() -> None:
    errors = []
    for seed in range(5):
        case = unmoved(make_case((200, 200), RankRule("energy", 0.9), seed=seed))
        errors.append(relative_error(apply(method_named("prolora"), case), case.delta))
    print(f"relative error of prolora between equal bases: {min(errors):.3f} to {max(errors):.3f}")
    assert sum(errors) / len(errors) == pytest.approx(0.68, abs=0.03)


@pytest.mark.parametrize("method", [method for method in METHODS if method.needs_subspaces], ids=lambda one: one.name)
def test_a_square_layer_without_truncation_gives_the_copy(method) -> None:
    case = make_case((44, 44), WHOLE, drift=1.0)
    assert relative_error(apply(method, case), case.delta) < 1e-9


@pytest.mark.parametrize("shape", [(48, 40), (40, 48)])
def test_the_null_space_term_vanishes_where_a_side_is_complete(shape: tuple[int, int]) -> None:
    case = make_case(shape, WHOLE)
    result = apply(method_named("prolora"), case)
    null_space = LowRankDelta(result.up[:, 3:], result.down[3:])
    assert null_space.norm() < 1e-10 * case.delta.norm()


def test_rotate_keeps_the_norm(case: Case) -> None:
    assert apply(method_named("rotate"), case).norm() == pytest.approx(case.delta.norm(), rel=1e-10)


def test_rotate_takes_the_source_subspace_to_the_targets(case: Case) -> None:
    source, target = case.bases().source_and_target_subspaces()
    turned, undefined = direct_rotation(source.left, target.left, source.left)
    assert undefined == 0
    assert torch.allclose(turned @ turned.mT, target.left @ target.left.mT, atol=1e-9)


def test_directions_at_a_right_angle_are_left_as_m_gives_them_and_counted() -> None:
    one = torch.eye(12, dtype=torch.float64)
    shared, only_source, only_target = one[:, :2], one[:, 2:5], one[:, 5:8]
    source = Subspace(torch.cat([shared, only_source], 1), one[:, :5], 1.0)
    target = Subspace(torch.cat([shared, only_target], 1), one[:, :5], 1.0)
    delta = LowRankDelta(one[:, [0, 2, 5, 9]], one[:4])
    result = method_named("rotate").function(delta, LayerPairBases((source, target)))
    assert result.undefined_directions == 3
    assert torch.allclose(result.delta.up, torch.stack([one[:, 0], 0 * one[:, 0], 0 * one[:, 0], one[:, 9]], 1))


def test_restored_the_target_acts_on_what_the_lora_reads_as_the_source_does(case: Case) -> None:
    result = apply(method_named("restore"), case).dense()
    mixed = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    read = case.delta.down.mT @ mixed.to(DEVICE)
    there = (case.target + result) @ read
    here = (case.source + case.delta.dense()) @ read
    assert torch.allclose(there, here, atol=1e-10)


def test_the_null_space_of_a_wide_layer_is_the_input_sides_alone() -> None:
    source, _ = subspaces(*(make_case((24, 45), WHOLE).source,) * 2, WHOLE)
    assert source.left.shape == (24, 24)
    assert source.right.shape == (45, 24)
