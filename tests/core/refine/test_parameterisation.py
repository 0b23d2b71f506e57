"""The laws of deltas that are trained inside the leading singular subspaces of their base."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lora_transfer.core.cache import SubspaceCache
from lora_transfer.core.delta import LowRankDelta
from lora_transfer.core.memory_base import MemoryBase
from lora_transfer.core.methods import LayerPairBases, method_named
from lora_transfer.core.reader import LayerReader
from lora_transfer.core.refine.parameterisation import (
    PARAMETERISATIONS,
    Parameterisation,
    TrainableDelta,
    compute_deltas,
    copy_trainable,
    make_trainable,
    require_gradients,
    restore_parameters,
)
from lora_transfer.core.resources import Resources
from lora_transfer.core.subspace import RankRule, Subspace, decompose, subspaces

CPU = torch.device("cpu")
RULES = (RankRule("fixed", 7), RankRule("fraction", 0.5), RankRule("energy", 0.8), RankRule("fraction", 1.0))
SHAPES = ((24, 24), (17, 45), (33, 4 * 9))  # a square layer, a wide one, and a convolution's matrix
INSIDE: tuple[Parameterisation, ...] = ("inside", "diagonal")


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def directions(weight: Tensor, rule: RankRule) -> Subspace:
    decomposition = decompose(weight, rule.max_rank((weight.shape[0], weight.shape[1])))
    return decomposition.cut(rule.rank(decomposition))


def trained(name: Parameterisation, weight: Tensor, rule: RankRule, rank: int = 3) -> TrainableDelta:
    """A delta after a training: random parameters."""
    generator = torch.Generator().manual_seed(1)
    shape = weight.shape[0], weight.shape[1]
    delta = make_trainable(name, shape, rank, directions(weight, rule), generator)
    return delta.with_parameters(tuple(random(2 + i, *p.shape) for i, p in enumerate(delta.parameters)))


def relative_error(delta: Tensor, expected: Tensor) -> float:
    return float((delta - expected).norm() / expected.norm())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("name", INSIDE)
def test_lora_x_gives_back_on_its_own_base_what_was_trained_inside(
    name: Parameterisation, rule: RankRule, shape: tuple[int, int]
) -> None:
    """The second base is equal, but a copy of its own, decomposed on its own."""
    weight = random(0, *shape)
    delta = LowRankDelta(*trained(name, weight, rule).factors())
    bases = LayerPairBases(subspaces=subspaces(weight, weight.clone(), rule))
    result = method_named("lora_x").function(delta, bases).delta
    assert relative_error(result.dense(), delta.dense()) < 1e-10


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", INSIDE)
def test_the_gradients_are_those_of_the_dense_formula(name: Parameterisation, shape: tuple[int, int]) -> None:
    """With G the loss's gradient by dW: U^T G V B^T for A, A^T U^T G V for B, and u_i^T G v_i for the values."""
    weight, inputs, aims = random(0, *shape), random(5, 11, shape[1]), random(6, 11, shape[0])
    rule = RankRule("fraction", 0.5)
    (delta,) = require_gradients({"": trained(name, weight, rule)}, CPU).values()
    up, down = delta.factors()
    loss = (inputs @ (weight + up @ down).mT - aims).square().sum()
    loss.backward()
    space = directions(weight, rule)
    dense = (up @ down).detach()
    gradient = 2 * (inputs @ (weight + dense).mT - aims).mT @ inputs
    core = space.left.mT @ gradient @ space.right
    if name == "inside":
        a, b = (parameter.detach() for parameter in delta.parameters)
        expected = [core @ b.mT, a.mT @ core]
    else:
        expected = [core.diagonal()]
    for parameter, formula in zip(delta.parameters, expected, strict=True):
        assert parameter.grad is not None
        assert relative_error(parameter.grad, formula) < 1e-10


@pytest.mark.parametrize("name", PARAMETERISATIONS)
def test_a_new_delta_is_zero_and_has_gradients(name: Parameterisation) -> None:
    weight = random(0, 24, 40).float()
    shape = (24, 40)
    space = directions(weight, RankRule("fraction", 0.5))
    new = make_trainable(name, shape, 5, space, torch.Generator().manual_seed(0))
    (delta,) = require_gradients({"": new}, CPU).values()
    up, down = delta.factors()
    assert (up.shape, down.shape) == (((24, 12), (12, 40)) if name == "diagonal" else ((24, 5), (5, 40)))
    assert not (up @ down).any()
    ((up @ down) * random(1, *shape).float()).sum().backward()
    assert any(bool(parameter.grad.any()) for parameter in delta.parameters if parameter.grad is not None)


@pytest.mark.parametrize("name", PARAMETERISATIONS)
def test_a_copy_keeps_its_values_and_can_be_restored(name: Parameterisation) -> None:
    delta = {"layer": trained(name, random(0, 9, 12), RankRule("fixed", 4))}
    copies = copy_trainable(delta)
    before = compute_deltas(delta)["layer"].dense()
    with torch.no_grad():
        for parameter in delta["layer"].parameters:
            parameter.mul_(3)
    assert torch.equal(compute_deltas(copies)["layer"].dense(), before)
    assert not torch.equal(compute_deltas(delta)["layer"].dense(), before)
    restore_parameters(delta, copies)
    assert torch.equal(compute_deltas(delta)["layer"].dense(), before)


def test_a_dense_core_is_a_case_of_inside() -> None:
    """LoRA-XS: A of rank k times the identity is any core (k, k)."""
    weight, rule = random(0, 24, 40), RankRule("fixed", 6)
    core = random(3, 6, 6)
    delta = trained("inside", weight, rule, rank=6).with_parameters((core, torch.eye(6, dtype=core.dtype)))
    space = directions(weight, rule)
    up, down = delta.factors()
    assert relative_error(up @ down, space.left @ core @ space.right.mT) < 1e-12


def test_directions_are_singular_pairs_even_if_the_cache_holds_mere_bases(tmp_path: Path) -> None:
    """At full rank `subspace` stores bases without order, which are enough for a projector."""
    weight = random(0, 20, 31).float()
    base = MemoryBase("base", {"layer": weight})
    reader = LayerReader(base, base.layers["layer"], Resources(cache=SubspaceCache(tmp_path)))
    rule = RankRule("fraction", 1.0)
    reader.subspace(20, rule, CPU)
    space = reader.singular_directions(rule, CPU)
    core = space.left.mT @ weight @ space.right
    assert relative_error(core, torch.diag(core.diagonal())) < 1e-5
    again = reader.singular_directions(rule, CPU)
    assert torch.equal(again.left, space.left)
