"""The linear algebra of the pack and the one owner of its tolerances."""

# torch.linalg has no types: its functions are called here alone, and come out typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

from .errors import ShapeMismatch

# Singular values below this share of the largest are rounding: a float16 file carries 11 bits, a float32 product of
# width 10,000 about 1e-6. The directions that belong to them are arbitrary and must not enter a basis.
NUMERICAL_RANK = 1e-6

# Cosine of a principal angle under which Kato's rotation is taken as undefined (the plane's rotation is 1/cos times M,
# and float32 leaves nothing of it below this).
RIGHT_ANGLE = 1e-4

# Relative distance under which two deltas count as the same: float32 factors of width 10,000 agree to about 1e-6.
SAME_DELTA = 1e-5


def gram_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD of a matrix (m, n) through the Gram matrix of its short side, in float64.

    Returns left (m, q), singular values (q) descending, right (n, q) in the dtype of `matrix`, where q <= min(m, n) is
    the numerical rank: directions without weight have no meaning and are left out. float64 because forming the Gram
    matrix squares the condition; it is also several times cheaper than a float32 SVD of the whole matrix.
    """
    if matrix.ndim != 2:
        raise ShapeMismatch(f"An SVD needs a matrix, found a tensor of shape {tuple(matrix.shape)}.")
    if matrix.shape[0] > matrix.shape[1]:
        right, singular_values, left = gram_svd(matrix.mT)
        return left, singular_values, right
    # MPS has no float64: the decomposition alone goes to the CPU there.
    wide = matrix.to("cpu" if matrix.device.type == "mps" else matrix.device, torch.float64)
    gram = wide @ wide.mT
    with _one_thread():
        eigenvalues, eigenvectors = torch.linalg.eigh(gram)
    singular_values = eigenvalues.flip(0).clamp(min=0).sqrt()
    kept = int((singular_values > NUMERICAL_RANK * singular_values[:1]).sum())
    left, singular_values = eigenvectors.flip(1)[:, :kept], singular_values[:kept]
    right = (wide.mT @ left) / singular_values
    return left.to(matrix), singular_values.to(matrix), right.to(matrix)


@contextmanager
def _one_thread() -> Generator[None, None, None]:
    """MKL's eigensolver waits for its threads by spinning: on two threads beside a busy process, 640 x 640 took 5.5 s
    in place of 0.04 s."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def thin_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (m, q), singular values (q) descending, V^T (q, n), q = min(m, n), for small matrices."""
    left, singular_values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left, singular_values, right


def qr(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal Q (m, q) and upper triangular R (q, n) with Q R = matrix, q = min(m, n)."""
    orthonormal, triangular = torch.linalg.qr(matrix)
    return orthonormal, triangular


def frobenius(matrix: Tensor) -> float:
    """||X||_F."""
    return float(torch.linalg.matrix_norm(matrix))


def project(basis: Tensor, x: Tensor) -> Tensor:
    """P x = U (U^T x) for an orthonormal basis U (m, k) and x (m, c); P itself is never formed."""
    return basis @ (basis.mT @ x)


def reject(basis: Tensor, x: Tensor) -> Tensor:
    """P' x = x - U (U^T x): the null-space part; a basis of the complement is never formed."""
    return x - project(basis, x)
