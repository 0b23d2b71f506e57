"""Which eigensolver decomposes a Gram matrix: by rule on a processor, by measurement on a card."""

# torch.linalg has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .lapack import leading_eigenpairs
from .memory import is_out_of_memory

# (the lower triangle of a symmetric matrix (n, n), count) -> eigenvalues (count) descending, vectors (n, count)
Eigensolver = Callable[[Tensor, int], tuple[Tensor, Tensor]]

# Largest residual ||G V - V L|| / (||G|| sqrt(count)) of a solver that is believed, in units of the precision: LAPACK's
# own stay at two. Ten would let a direction be off by a hundredth where the spectrum is flat.
_BELIEVED = 8.0


def partial(lower: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """LAPACK's partial solver on the processor, wherever the matrix is."""
    values, vectors = leading_eigenpairs(lower.cpu(), count)
    return values.to(lower.device), vectors.to(lower.device)


def whole(lower: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The whole spectrum where the matrix is, by torch; what was not asked for is left out."""
    values, vectors = torch.linalg.eigh(lower, UPLO="L")
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    return values, vectors if lower.device.type == "cpu" else straighten(vectors)


def straighten(vectors: Tensor) -> Tensor:
    """Vectors (n, k) that are orthonormal but for small errors, with the square of those errors: a Newton-Schulz step.

    A residual does not show such errors, but a projector made of the vectors does: on an H200, deltas were off by
    3e-4 where the processor's were off by 6e-6.
    """
    identity = torch.eye(vectors.shape[1], dtype=vectors.dtype, device=vectors.device)
    return vectors @ (1.5 * identity - 0.5 * (vectors.mT @ vectors))


def by_rule(lower: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The partial solver up to half of the spectrum. Measured at 1280 on two cores: 0.10 s for 320 of them, 0.16 s for
    half, 0.37 s for all; torch takes 0.15 s for any, and was off by 1e-3 in float32 at 3072."""
    return partial(lower, count) if count <= len(lower) // 2 + 1 else whole(lower, count)


class Measured:
    """The fastest of several solvers on the device at hand: the first matrix of each size is solved by all of them, and
    one whose result is wrong there, judged in float64 by its residual, is not taken for that size."""

    def __init__(self, solvers: Sequence[Eigensolver] = (whole, partial), *, by_rule_on_cpu: bool = True) -> None:
        self._solvers = tuple(solvers)
        self._by_rule_on_cpu = by_rule_on_cpu
        self.chosen: dict[tuple[int, int, torch.dtype], Eigensolver] = {}

    def __call__(self, lower: Tensor, count: int) -> tuple[Tensor, Tensor]:
        if lower.device.type == "cpu" and self._by_rule_on_cpu:  # a layer that did not fit the card
            return by_rule(lower, count)
        size = len(lower), count, lower.dtype
        if size in self.chosen:
            return self.chosen[size](lower, count)
        trials = [trial for trial in (self._trial(solver, lower, count) for solver in self._solvers) if trial]
        if not trials:  # a matrix that none of them solves well: the partial solver is the most exact
            return partial(lower, count)
        _, self.chosen[size], found = min(trials, key=lambda trial: trial[0])
        return found

    def _trial(
        self, solver: Eigensolver, lower: Tensor, count: int
    ) -> tuple[float, Eigensolver, tuple[Tensor, Tensor]] | None:
        """Seconds, the solver and what it found; None where it fails or is not to be believed. cuSOLVER refuses some
        sizes on some cards with an error of its own; a full card is for the caller to deal with."""
        try:
            solver(lower, count)  # the first call on a card also loads its library
            _wait(lower)
            started = time.perf_counter()
            found = solver(lower, count)
            _wait(lower)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            return None
        seconds = time.perf_counter() - started
        believed = residual(lower, *found) <= _BELIEVED * torch.finfo(lower.dtype).eps
        return (seconds, solver, found) if believed else None


def residual(lower: Tensor, values: Tensor, vectors: Tensor) -> float:
    """||G V - V L|| / (||G|| sqrt(count)) in float64, the spectral norm taken from the largest eigenvalue."""
    place = "cpu" if lower.device.type == "mps" else lower.device
    whole_matrix = lower.to(place, torch.float64).tril()
    whole_matrix = whole_matrix + whole_matrix.tril(-1).mT
    values, vectors = values.to(place, torch.float64), vectors.to(place, torch.float64)
    difference = whole_matrix @ vectors - vectors * values
    return float(difference.norm()) / max(float(values[0]), 1e-300) / vectors.shape[1] ** 0.5


def _wait(tensor: Tensor) -> None:
    """Cards work behind the program's back: a time means nothing before they are done."""
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)
