"""Fixtures for the laws: every method, non-square shapes that reveal a transposition, and every kind of rank rule."""

import os
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lora_transfer.core.delta import LowRankDelta
from lora_transfer.core.drift import compare_weights
from lora_transfer.core.methods import METHODS, LayerPairBases, Method
from lora_transfer.core.subspace import RankRule, subspaces

SHAPES = [(48, 40), (40, 48), (44, 44), (24, 5 * 3 * 3)]
RULES = [RankRule("fixed", 7), RankRule("fraction", 0.5), RankRule("energy", 0.9)]
RANK = 3

# The laws hold on every device; the oracle computes on the processor. benchmarks/device sets it.
DEVICE = torch.device(os.environ.get("LORA_TRANSFER_TEST_DEVICE", "cpu"))


@dataclass(frozen=True)
class Case:
    """A delta, and two related weights with their subspaces."""

    delta: LowRankDelta
    source: Tensor
    target: Tensor
    rule: RankRule

    def bases(self) -> LayerPairBases:
        _, drift = compare_weights(self.source, self.target, self.delta)
        return LayerPairBases(subspaces(self.source, self.target, self.rule), drift)


def make_case(
    shape: tuple[int, int], rule: RankRule, seed: int = 0, drift: float = 0.3, dtype: torch.dtype = torch.float64
) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def noise(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    source = noise(*shape)
    target = source + drift * noise(*shape)
    up, down = noise(shape[0], RANK), noise(RANK, shape[1])
    weights = source.to(DEVICE, dtype), target.to(DEVICE, dtype)
    return Case(LowRankDelta(up, down).to(DEVICE, dtype), *weights, rule)


def apply(method: Method, case: Case) -> LowRankDelta:
    return method.function(case.delta, case.bases()).delta


def relative_error(found: LowRankDelta | Tensor, expected: LowRankDelta | Tensor) -> float:
    found, expected = (
        (x.dense() if isinstance(x, LowRankDelta) else x).to("cpu", torch.float64) for x in (found, expected)
    )
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(params=METHODS, ids=lambda method: method.name)
def method(request: pytest.FixtureRequest) -> Method:
    return request.param


@pytest.fixture(params=SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def shape(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


@pytest.fixture(params=RULES, ids=lambda rule: f"{rule.kind}-{rule.amount}")
def case(request: pytest.FixtureRequest, shape: tuple[int, int]) -> Case:
    return make_case(shape, request.param)
