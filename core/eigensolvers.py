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
    return values.flip(0)[:count], vectors.flip(1)[:, :count]


def by_rule(lower: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The partial solver up to half of the spectrum. Measured at 1280 on two cores: 0.10 s for 320 of them, 0.16 s for
    half, 0.37 s for all; torch takes 0.15 s for any, and was off by 1e-3 in float32 at 3072."""
    return partial(lower, count) if count <= len(lower) // 2 + 1 else whole(lower, count)


class Measured:
    """The fastest of several solvers on this device: all of them solve the first matrix of each size, and the fastest
    whose result is right is taken for that size. Every later result is checked too; the partial solver replaces a
    wrong one. cuSOLVER in float32 solves one matrix of a size well and another badly: on an H200, deltas were off by
    3e-4 when only the first was checked."""

    def __init__(self, solvers: Sequence[Eigensolver] = (whole, partial), *, by_rule_on_cpu: bool = True) -> None:
        self._solvers = tuple(solvers)
        self._by_rule_on_cpu = by_rule_on_cpu
        self.chosen: dict[tuple[int, int, torch.dtype], Eigensolver] = {}

    def __call__(self, lower: Tensor, count: int) -> tuple[Tensor, Tensor]:
        if lower.device.type == "cpu" and self._by_rule_on_cpu:  # a layer that did not fit the card
            return by_rule(lower, count)
        size = len(lower), count, lower.dtype
        if size in self.chosen:
            pairs = self.chosen[size](lower, count)
            return pairs if _is_right(lower, *pairs) else partial(lower, count)
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
        return (seconds, solver, found) if _is_right(lower, *found) else None


def _is_right(lower: Tensor, values: Tensor, vectors: Tensor) -> bool:
    return residual(lower, values, vectors) <= _BELIEVED * torch.finfo(lower.dtype).eps


def residual(lower: Tensor, values: Tensor, vectors: Tensor) -> float:
    """||G V - V L|| / (||G|| sqrt(count)) in float64, of all vectors or of their last tenth, whichever is larger: the
    last ones decide where the subspace ends. The spectral norm is the largest eigenvalue."""
    place = "cpu" if lower.device.type == "mps" else lower.device
    whole_matrix = lower.to(place, torch.float64).tril()
    whole_matrix = whole_matrix + whole_matrix.tril(-1).mT
    values, vectors = values.to(place, torch.float64), vectors.to(place, torch.float64)
    difference = whole_matrix @ vectors - vectors * values
    last = difference[:, -max(1, vectors.shape[1] // 10) :]
    largest = max(float(part.norm()) / part.shape[1] ** 0.5 for part in (difference, last))
    return largest / max(float(values[0]), 1e-300)


def _wait(tensor: Tensor) -> None:
    """Cards work behind the program's back: a time means nothing before they are done."""
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)
