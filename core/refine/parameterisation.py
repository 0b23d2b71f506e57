"""How a layer's delta is trained: with free factors, or inside the leading singular subspaces of the base's weight.

A delta that is trained inside the subspaces is a fixed point of the method `lora_x` on its own base, because it is
P dW Q from the start (docs/method.md, section 10).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..delta import LowRankDelta
from ..subspace import Subspace
from .factors import balance_factors, make_zero_factors

# A zero parameter has no size for its rate to be a share of, and gets this size. It was slightly better than 0.05 and
# 0.2 (benchmarks/refine). It does not depend on the width, as derived for LoRA+ (arXiv 2402.12354).
_NEW_SIZE = 0.1
_LEAST_SIZE = 0.3  # the smallest size of a parameter, as a share of the median size

Parameterisation = Literal["plain", "inside", "diagonal"]
PARAMETERISATIONS: Mapping[Parameterisation, str] = {
    "inside": "a LoRA inside the base's leading singular directions, which lora_x transfers unchanged",
    "diagonal": "LoRA-X as published, one number for each direction; best only for a subtle style on turbo models",
    "plain": "an ordinary LoRA; measured best on nearly all targets, with restore_both",
}


class TrainableDelta(Protocol):
    """A delta in training: its parameters, and its factors up (m, r) and down (r, n) as functions of them."""

    @property
    def parameters(self) -> tuple[Tensor, ...]: ...

    def factors(self) -> tuple[Tensor, Tensor]: ...

    def with_parameters(self, parameters: tuple[Tensor, ...]) -> "TrainableDelta": ...

    def on_device(self, device: torch.device) -> "TrainableDelta":
        """The same delta, with everything that it needs on a device."""
        ...


Trainable = Mapping[str, TrainableDelta]  # by layer


@dataclass(frozen=True)
class FreeFactors:
    """dW = up . down, as in any LoRA: up (m, r), down (r, n)."""

    up: Tensor
    down: Tensor

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return self.up, self.down

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.up, self.down

    def with_parameters(self, parameters: tuple[Tensor, ...]) -> "FreeFactors":
        return FreeFactors(*parameters)

    def on_device(self, device: torch.device) -> "FreeFactors":
        return FreeFactors(self.up.to(device), self.down.to(device))


@dataclass(frozen=True)
class InsideFactors:
    """dW = U_k A . B V_k^T of rank r: A (k, r), B (r, k). LoRA-XS (arXiv 2405.17604) has a dense core (k, k) there."""

    subspace: Subspace
    a: Tensor
    b: Tensor

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return self.a, self.b

    def factors(self) -> tuple[Tensor, Tensor]:
        space = self.subspace  # it may be on another device than copies of the parameters
        return space.left @ self.a.to(space.left), self.b.to(space.left) @ space.right.mT

    def with_parameters(self, parameters: tuple[Tensor, ...]) -> "InsideFactors":
        return InsideFactors(self.subspace, *parameters)

    def on_device(self, device: torch.device) -> "InsideFactors":
        return InsideFactors(self.subspace.to(device), self.a.to(device), self.b.to(device))


@dataclass(frozen=True)
class DiagonalFactors:
    """dW = U_k diag(values) V_k^T of rank k: values (k) (LoRA-X, arXiv 2501.16559; docs/method.md, section 10, says how
    we know that its core is diagonal)."""

    subspace: Subspace
    values: Tensor

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return (self.values,)

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.subspace.left * self.values.to(self.subspace.left), self.subspace.right.mT

    def with_parameters(self, parameters: tuple[Tensor, ...]) -> "DiagonalFactors":
        return DiagonalFactors(self.subspace, *parameters)

    def on_device(self, device: torch.device) -> "DiagonalFactors":
        return DiagonalFactors(self.subspace.to(device), self.values.to(device))


def make_trainable(
    parameterisation: Parameterisation,
    shape: tuple[int, int],
    rank: int,
    subspace: Subspace,
    generator: torch.Generator,
) -> TrainableDelta:
    """A delta of zeros for a weight of this shape (m, n), ready to be trained.

    rank: of "plain" and "inside", at most min(m, n) and k; "diagonal" has rank k. subspace: the k leading singular
    directions of the weight, in pairs (LayerReader.singular_directions); "plain" ignores it.
    """
    return _MAKERS[parameterisation](shape, rank, subspace, generator)


def _make_free(shape: tuple[int, int], rank: int, subspace: Subspace, generator: torch.Generator) -> TrainableDelta:
    return FreeFactors(*make_zero_factors(shape, rank, generator))


def _make_inside(shape: tuple[int, int], rank: int, subspace: Subspace, generator: torch.Generator) -> TrainableDelta:
    return InsideFactors(subspace, *make_zero_factors((subspace.rank, subspace.rank), rank, generator))


def _make_diagonal(shape: tuple[int, int], rank: int, subspace: Subspace, generator: torch.Generator) -> TrainableDelta:
    return DiagonalFactors(subspace, torch.zeros(subspace.rank))


_MAKERS: Mapping[Parameterisation, Callable[[tuple[int, int], int, Subspace, torch.Generator], TrainableDelta]] = {
    "plain": _make_free,
    "inside": _make_inside,
    "diagonal": _make_diagonal,
}


def continue_delta(
    parameterisation: Parameterisation, delta: LowRankDelta, subspace: Subspace, generator: torch.Generator
) -> TrainableDelta:
    """An existing delta, ready to be trained further. "inside" and "diagonal" keep only what they can express: the part
    of the delta inside the subspace, or that part's diagonal."""
    up, down = balance_factors(delta, generator)
    used = up.any(0)  # slices of one fused delta have its whole rank, most of which is empty
    if bool(used.any()):
        up, down = up[:, used], down[used]
    if parameterisation == "plain":
        return FreeFactors(up, down)
    a, b = subspace.left.mT @ up, down @ subspace.right
    return (
        InsideFactors(subspace, a, b) if parameterisation == "inside" else DiagonalFactors(subspace, (a.mT * b).sum(0))
    )


def free_factors(deltas: Mapping[str, LowRankDelta]) -> dict[str, TrainableDelta]:
    """Deltas whose factors are trained as they are."""
    return {name: FreeFactors(delta.up, delta.down) for name, delta in deltas.items()}


def require_gradients(trainable: Trainable, device: torch.device) -> dict[str, TrainableDelta]:
    """Copies on a device whose parameters collect gradients."""
    with torch.inference_mode(False):
        return {name: _require_gradients(delta.on_device(device)) for name, delta in trainable.items()}


def _require_gradients(delta: TrainableDelta) -> TrainableDelta:
    return delta.with_parameters(tuple(parameter.clone().requires_grad_() for parameter in delta.parameters))


def copy_trainable(trainable: Trainable) -> dict[str, TrainableDelta]:
    """Copies of the current parameters in main memory; fixed bases are shared."""
    return {
        name: delta.with_parameters(tuple(parameter.detach().cpu().clone() for parameter in delta.parameters))
        for name, delta in trainable.items()
    }


def restore_parameters(trainable: Trainable, copies: Trainable) -> None:
    """Set the parameters in place to those of copies."""
    with torch.no_grad():
        for name, delta in copies.items():
            for parameter, copied in zip(trainable[name].parameters, delta.parameters, strict=True):
                parameter.copy_(copied)


def compute_deltas(trainable: Trainable) -> dict[str, LowRankDelta]:
    """The deltas as factors in main memory, without gradients."""
    with torch.no_grad():
        return {
            name: LowRankDelta(*(factor.detach().cpu().clone() for factor in delta.factors()))
            for name, delta in trainable.items()
        }


def measure_sizes(trainable: Trainable) -> list[float]:
    """The size of each parameter, for rates: its root mean square, but at least a share of the median size."""
    sizes = [
        float(parameter.detach().square().mean().sqrt())
        for delta in trainable.values()
        for parameter in delta.parameters
    ]
    nonzero = sorted(size for size in sizes if size > 0)
    least = _LEAST_SIZE * nonzero[len(nonzero) // 2] if nonzero else 0.0
    return [max(size, least) if size > 0 else _NEW_SIZE for size in sizes]
