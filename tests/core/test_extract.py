"""The difference of two bases as low-rank deltas."""

import pytest
import torch

from lora_transfer.core.errors import InvalidSetting, NothingToTransfer
from lora_transfer.core.extract import extract_difference
from lora_transfer.core.memory_base import MemoryBase


def bases(generator: torch.Generator) -> tuple[MemoryBase, MemoryBase]:
    """Two bases that differ by rank 3 in a layer and by noise in another; a layer is equal, and one has no partner."""
    weights = {name: torch.randn(24, 16, generator=generator) for name in ("low", "noise", "equal", "gone")}
    low = torch.randn(24, 3, generator=generator) @ torch.randn(3, 16, generator=generator)
    other = {"low": weights["low"] + low, "noise": torch.randn(24, 16, generator=generator), "equal": weights["equal"]}
    return MemoryBase("A", weights), MemoryBase("B", other)


def test_a_difference_of_low_rank_is_found_exactly(generator: torch.Generator) -> None:
    first, second = bases(generator)
    extracted = extract_difference(first, second, ["low", "equal", "gone"], rank=3)
    change = second.weights["low"] - first.weights["low"]
    assert torch.allclose(extracted.deltas["low"].dense(), change, atol=1e-4)
    assert extracted.equal == 1
    assert [skipped.layer for skipped in extracted.skipped] == ["gone"]
    assert extracted.kept == pytest.approx(1.0, abs=1e-5)


def test_no_other_matrix_of_the_rank_is_nearer(generator: torch.Generator) -> None:
    first, second = bases(generator)
    extracted = extract_difference(first, second, ["noise"], rank=5)
    change = second.weights["noise"] - first.weights["noise"]
    values = torch.linalg.svdvals(change.double())
    error = float((extracted.deltas["noise"].dense().double() - change.double()).norm())
    assert error == pytest.approx(float(values[5:].norm()), rel=1e-4)
    assert extracted.kept == pytest.approx(float(values[:5].square().sum() / values.square().sum()), rel=1e-4)


def test_energy_chooses_the_smallest_rank_that_holds_it(generator: torch.Generator) -> None:
    first, second = bases(generator)
    extracted = extract_difference(first, second, ["noise"], rank=16, energy=0.8)
    energies = torch.linalg.svdvals((second.weights["noise"] - first.weights["noise"]).double()).square()
    shares = energies.cumsum(0) / energies.sum()
    assert extracted.deltas["noise"].rank == 1 + int((shares < 0.8).sum())
    assert extracted.kept >= 0.8


def test_equal_bases_and_impossible_numbers_are_said(generator: torch.Generator) -> None:
    first, second = bases(generator)
    with pytest.raises(NothingToTransfer, match="layers that differ"):
        extract_difference(first, second, ["equal"], rank=3)
    with pytest.raises(InvalidSetting, match="rank of at least 1"):
        extract_difference(first, second, ["low"], rank=0)
