import pytest
import torch

from lora_transfer.core import drift
from lora_transfer.core.delta import LowRankDelta
from lora_transfer.core.drift import compare_weights
from lora_transfer.core.errors import ShapeMismatch


@pytest.fixture
def weights(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.randn(50, 33, generator=generator)
    return source, source + 0.3 * torch.randn(50, 33, generator=generator)


@pytest.mark.parametrize("block", [1, 100, 1 << 19])
def test_the_figures_are_those_of_the_whole_matrices_whatever_the_blocks(
    weights: tuple[torch.Tensor, torch.Tensor], generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(drift, "_BLOCK", block)
    source, target = weights
    delta = LowRankDelta(torch.randn(50, 3, generator=generator), torch.randn(3, 33, generator=generator))
    figures, taken = compare_weights(source, target, delta)
    assert figures.norms == pytest.approx((float(source.norm()), float(target.norm())), rel=1e-6)
    assert figures.drift == pytest.approx(float((target - source).norm() / source.norm()), rel=1e-6)
    assert figures.cosine == pytest.approx(float((source * target).sum() / (source.norm() * target.norm())), rel=1e-6)
    assert taken is not None
    reading = torch.linalg.pinv(delta.down) @ delta.down
    assert torch.allclose(taken.read.dense(), (source - target) @ reading, atol=1e-5)
    writing = delta.up @ torch.linalg.pinv(delta.up)
    assert torch.allclose(taken.written.dense(), writing @ (source - target) @ (torch.eye(33) - reading), atol=1e-5)
    assert taken.energy() == pytest.approx(float(taken.read.plus(taken.written).norm() ** 2), rel=1e-4)


def test_equal_weights_have_a_drift_of_exactly_zero(weights: tuple[torch.Tensor, torch.Tensor]) -> None:
    figures, taken = compare_weights(weights[0], weights[0].clone())
    assert figures.drift == 0
    assert taken is None


def test_a_weight_of_zeros_has_no_direction(weights: tuple[torch.Tensor, torch.Tensor]) -> None:
    figures, _ = compare_weights(torch.zeros(50, 33), weights[1])
    assert (figures.cosine, figures.drift, figures.norms[0]) == (None, None, 0)


def test_weights_of_two_shapes_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match=r"\(2, 3\) and \(3, 2\)"):
        compare_weights(torch.zeros(2, 3), torch.zeros(3, 2))
