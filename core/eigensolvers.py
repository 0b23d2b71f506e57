"""Chooses the eigensolver for a Gram matrix: by a rule on a processor, by measurement on a graphics card."""

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

# The largest acceptable residual ||G V - V L|| / (||G|| sqrt(count)) of a solver, in units of the precision. LAPACK's
# residuals stay at two. With a limit of ten, a direction of a flat spectrum could be wrong by 0.01.
_ACCEPTED_RESIDUAL = 8.0


def solve_partial(lower: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Solve with LAPACK's partial solver on the processor; results are on the matrix's device."""
    values, vectors = leading_eigenpairs(lower.cpu(), count)
    return values.to(lower.device), vectors.to(lower.device)


def solve_whole(lower: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Compute the whole spectrum with torch on the matrix's device, and return the leading part."""
    values, vectors = torch.linalg.eigh(lower, UPLO="L")
    return values.flip(0)[:count], vectors.flip(1)[:, :count]


def solve_by_rule(lower: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Use the partial solver up to half of the spectrum.

    Measured for n = 1280 on two cores: the partial solver takes 0.10 s for 320 eigenpairs, 0.16 s for half and 0.37 s
    for all; torch takes 0.15 s for any number, but had an error of 1e-3 in float32 for n = 3072.
    """
    return solve_partial(lower, count) if count <= len(lower) // 2 + 1 else solve_whole(lower, count)


class FastestSolver:
    """Uses the fastest of several solvers for each size of matrix.

    All solvers solve the first matrix of a size. A solver whose residual in float64 is too large is not used for that
    size. Every later result is checked too, and the partial solver replaces an inaccurate one: on an H200, where only
    the first was checked, deltas had an error of up to 3e-4. That each check cures it is not measured yet.
    """

    def __init__(
        self, solvers: Sequence[Eigensolver] = (solve_whole, solve_partial), *, rule_on_cpu: bool = True
    ) -> None:
        self._solvers = tuple(solvers)
        self._rule_on_cpu = rule_on_cpu
        self.fastest: dict[tuple[int, int, torch.dtype], Eigensolver] = {}

    def __call__(self, lower: Tensor, count: int) -> tuple[Tensor, Tensor]:
        if lower.device.type == "cpu" and self._rule_on_cpu:  # a layer that did not fit on the card
            return solve_by_rule(lower, count)
        size = len(lower), count, lower.dtype
        if size in self.fastest:
            eigenpairs = self.fastest[size](lower, count)
            return eigenpairs if _is_accurate(lower, *eigenpairs) else solve_partial(lower, count)
        trials = [trial for trial in (self._trial(solver, lower, count) for solver in self._solvers) if trial]
        if not trials:  # no solver is accurate enough for this matrix: the partial solver is the most accurate
            return solve_partial(lower, count)
        _, self.fastest[size], eigenpairs = min(trials, key=lambda trial: trial[0])
        return eigenpairs

    def _trial(
        self, solver: Eigensolver, lower: Tensor, count: int
    ) -> tuple[float, Eigensolver, tuple[Tensor, Tensor]] | None:
        """Seconds, the solver and its eigenpairs; None if it fails or is not accurate enough.

        cuSOLVER refuses some sizes on some cards with an error. An error that means a full card is raised: the caller
        then uses the processor.
        """
        try:
            solver(lower, count)  # the first call on a card also loads its library
            _wait(lower)
            started = time.perf_counter()
            eigenpairs = solver(lower, count)
            _wait(lower)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            return None
        seconds = time.perf_counter() - started
        return (seconds, solver, eigenpairs) if _is_accurate(lower, *eigenpairs) else None


def _is_accurate(lower: Tensor, values: Tensor, vectors: Tensor) -> bool:
    return residual(lower, values, vectors) <= _ACCEPTED_RESIDUAL * torch.finfo(lower.dtype).eps


def residual(lower: Tensor, values: Tensor, vectors: Tensor) -> float:
    """||G V - V L|| / (||G|| sqrt(count)) in float64, of all vectors or of the last tenth, whichever is larger.

    The last vectors decide where the subspace ends. The largest eigenvalue is the spectral norm ||G||.
    """
    device = "cpu" if lower.device.type == "mps" else lower.device  # MPS has no float64
    symmetric = lower.to(device, torch.float64).tril()
    symmetric = symmetric + symmetric.tril(-1).mT
    values, vectors = values.to(device, torch.float64), vectors.to(device, torch.float64)
    difference = symmetric @ vectors - vectors * values
    last = difference[:, -max(1, vectors.shape[1] // 10) :]
    largest = max(float(part.norm()) / part.shape[1] ** 0.5 for part in (difference, last))
    return largest / max(float(values[0]), 1e-300)


def _wait(tensor: Tensor) -> None:
    """A card works asynchronously: a measured time means nothing before it has finished."""
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)
