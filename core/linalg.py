"""The linear algebra of the pack, and its tolerances."""

# torch.linalg has no types. Other modules call the typed functions below instead.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .eigensolvers import Eigensolver, solve_by_rule
from .errors import ShapeMismatch

# Singular values below this share of the largest are rounding errors: a float16 file has 11 bits, and a float32 product
# of width 10,000 an error of about 1e-6. Their directions are arbitrary and must not enter a basis.
NUMERICAL_RANK = 1e-6

# Kato's rotation counts as undefined below this cosine of a principal angle: the rotation in the plane is M / cos, and
# float32 has no correct digits left there.
RIGHT_ANGLE = 1e-4

# Two deltas count as equal below this relative distance: float32 factors of width 10,000 agree to about 1e-6.
SAME_DELTA = 1e-5

# The outputs of two models count as equal if their distance is below this share of an adapter's effect. Measured on the
# small SD 1.5: an adapter merged in two float32 steps is wrong by 4e-5 of its effect, and one merged from float16
# differences by 3e-4. Without a tolerance a check would report such rounding as a gap that every adapter widens.
SAME_OUTPUT = 1e-3

# Predictions stored in float16 count as equal if their distance is below this share of the noise. The rounding is up to
# 5e-4.
SAME_ANSWER = 1e-3

# The largest angle (boundary_error) for which a float32 Gram matrix is accurate enough. Measured over flat and steep
# spectra of 640 to 2048: the error of the delta is 2e-6 plus about 2e-3 of this angle. Our limit for it is 2e-4.
CLEAR_GAP = 5e-3

# The smallest short side for which float32 is used. For smaller sides float64 is cheap, and the angle is spread over so
# few directions that it shows fully in the delta (4 rows: an angle of 1.6e-3 gave an error of 3e-3).
FLOAT32_FROM = 512

# The largest accepted deviation of a basis from orthonormal. LAPACK's float32 vectors deviate by 6e-6.
ORTHONORMAL = 1e-5

# A matrix counts as full rank if the smallest diagonal entry of its triangular factor is above this share of the
# largest. The test is not exact (the diagonal only bounds the smallest singular value from above), so the limit is
# cautious.
_FULL_RANK = 1e-3

_GRAM_BLOCKS = 8  # measured: 0.6 of the time of the whole product for 640 to 11520 columns; more blocks gain nothing


class LeadingSvd(NamedTuple):
    """left (m, k), singular_values (k) descending, right (n, k), where k is at most the numerical rank. precise:
    computed in float64, so that every smaller k is as exact."""

    left: Tensor
    singular_values: Tensor
    right: Tensor
    precise: bool


def leading_svd(matrix: Tensor, count: int, eigenpairs: Eigensolver = solve_by_rule) -> LeadingSvd:
    """The `count` leading singular triplets of a matrix (m, n), exactly, from the Gram matrix of its short side.

    Several times cheaper than an SVD of the matrix, and cheaper the smaller `count` is, because a partial eigensolver
    computes only as many eigenpairs. Uses float32 where that is safe (a large matrix, at most half of its short side, a
    clear gap) and float64 otherwise: a Gram matrix has the squared condition number. Do not use a randomised method:
    the spectra of base weights are too flat (25 to 80 % error in the delta). ShapeMismatch if `matrix` is no matrix.
    """
    if matrix.ndim != 2:
        raise ShapeMismatch(f"SVD: expected a matrix, found a tensor of shape {tuple(matrix.shape)}.")
    if matrix.shape[0] > matrix.shape[1]:
        transposed = leading_svd(matrix.mT, count, eigenpairs)
        return LeadingSvd(transposed.right, transposed.singular_values, transposed.left, transposed.precise)
    short = matrix.shape[0]
    count = min(count, short)
    if count < 1:  # a weight of zeros has no leading direction
        return LeadingSvd(
            matrix.new_empty(short, 0), matrix.new_empty(0), matrix.new_empty(matrix.shape[1], 0), precise=True
        )
    if matrix.dtype == torch.float32 and short >= FLOAT32_FROM and count <= short // 2:
        eigenvalues, eigenvectors = eigenpairs(gram(matrix), count + 1)
        if boundary_error(eigenvalues, count) <= CLEAR_GAP:
            return _from_eigenpairs(matrix, eigenvalues[:count], eigenvectors[:, :count], precise=False)
    # MPS has no float64: the CPU computes the decomposition then.
    wide = matrix.to("cpu" if matrix.device.type == "mps" else matrix.device, torch.float64)
    eigenvalues, eigenvectors = eigenpairs(gram(wide), count)
    singular_values = eigenvalues.clamp(min=0).sqrt()
    rank = int((singular_values > NUMERICAL_RANK * singular_values[:1]).sum())
    svd = _from_eigenpairs(wide, eigenvalues[:rank], eigenvectors[:, :rank], precise=True)
    return LeadingSvd(svd.left.to(matrix), svd.singular_values.to(matrix), svd.right.to(matrix), precise=True)


def gram(matrix: Tensor) -> Tensor:
    """The lower triangle of X X^T (m, m), in the matrix's precision; entries above the diagonal are undefined.

    Computed in blocks of rows, which saves almost half of the products of a whole X X^T.
    """
    rows = -(-matrix.shape[0] // _GRAM_BLOCKS)
    product = matrix.new_empty(matrix.shape[0], matrix.shape[0])
    for first in range(0, matrix.shape[0], rows):
        block = slice(first, first + rows)
        torch.mm(matrix[first:], matrix[block].mT, out=product[first:, block])
    return product


def boundary_error(eigenvalues: Tensor, count: int) -> float:
    """The largest angle (radians) by which float32 rounding can rotate the leading subspace of a Gram matrix.

    eigenvalues: descending, at least count + 1 of them. eps s_1^2 / (s_k^2 - s_{k+1}^2) with k = count, the bound of
    Davis and Kahan; infinite if there is no gap.
    """
    gap = float(eigenvalues[count - 1] - eigenvalues[count])
    return float("inf") if gap <= 0 else torch.finfo(torch.float32).eps * float(eigenvalues[0]) / gap


def complete_bases(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """Orthonormal bases (m, q) and (n, q) of the columns and rows of a matrix of full rank q = min(m, n).

    Needs no eigensolver: the short side's basis is the identity, the long side's comes from a Cholesky factor of the
    Gram matrix in half the time of a QR. None if the matrix is not clearly of full rank.
    """
    if matrix.shape[0] > matrix.shape[1]:
        transposed = complete_bases(matrix.mT)
        return None if transposed is None else (transposed[1], transposed[0])
    short, long = matrix.shape
    wide = matrix.to("cpu" if matrix.device.type == "mps" else matrix.device, torch.float64)
    factor, failed = torch.linalg.cholesky_ex(gram(wide))
    diagonal = factor.diagonal()
    if int(failed) or not short or float(diagonal.min()) <= _FULL_RANK * float(diagonal.max()):
        return None
    identity = torch.eye(short, dtype=matrix.dtype, device=matrix.device)
    if short == long:
        return identity, identity.clone()
    wide_identity = torch.eye(short, dtype=torch.float64, device=wide.device)
    inverse = torch.linalg.solve_triangular(factor, wide_identity, upper=False).to(matrix)  # (q, q)
    return identity, _normalize(matrix.mT @ inverse.mT, float(diagonal.max() / diagonal.min()))


def _from_eigenpairs(matrix: Tensor, eigenvalues: Tensor, eigenvectors: Tensor, *, precise: bool) -> LeadingSvd:
    """right = X^T left / s. Its last directions contain the rounding errors of the first, s_1^2 / s_k^2 times as
    large."""
    singular_values = eigenvalues.clamp(min=0).sqrt()
    amplification = float(eigenvalues[0] / eigenvalues[-1]) if len(eigenvalues) else 1.0
    return LeadingSvd(eigenvectors, singular_values, _normalize(matrix.mT @ eigenvectors, amplification), precise)


def _normalize(orthogonal: Tensor, amplification: float) -> Tensor:
    """Scale columns (n, k) to unit length, in place. They are orthogonal except for rounding times `amplification`;
    where that is too much, a Newton-Schulz step squares the error."""
    orthogonal /= torch.linalg.vector_norm(orthogonal, dim=0)
    if amplification * torch.finfo(orthogonal.dtype).eps <= ORTHONORMAL:
        return orthogonal
    identity = torch.eye(orthogonal.shape[1], dtype=orthogonal.dtype, device=orthogonal.device)
    return orthogonal @ (1.5 * identity - 0.5 * (orthogonal.mT @ orthogonal))


def thin_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (m, q), singular values (q) descending, V^T (q, n) with q = min(m, n); for small matrices."""
    left, singular_values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left, singular_values, right


def qr(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal Q (m, q) and upper triangular R (q, n) with Q R = matrix, q = min(m, n)."""
    orthonormal, triangular = torch.linalg.qr(matrix)
    return orthonormal, triangular


def frobenius(matrix: Tensor) -> float:
    """||X||_F, summed in float64: torch's float32 sum of a 320 x 320 matrix had a relative error of 5e-6."""
    precise = None if matrix.device.type == "mps" else torch.float64
    return float(torch.linalg.vector_norm(matrix, dtype=precise))


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite. A finite sum needs no closer look, which takes sixteen times as long."""
    return math.isfinite(float(values.sum(dtype=torch.float32))) or bool(torch.isfinite(values.float()).all())


def project(basis: Tensor, x: Tensor) -> Tensor:
    """P x = U (U^T x) (m, c) for an orthonormal basis U (m, k) and x (m, c), without forming P."""
    return basis @ (basis.mT @ x)


def split(basis: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """(P x, P' x), the parts of x inside and outside a subspace, (m, c) each."""
    inside = project(basis, x)
    return inside, x - inside


def reject(basis: Tensor, x: Tensor) -> Tensor:
    """P' x = x - U (U^T x) (m, c), the null-space part, without a basis of the null space."""
    return x - project(basis, x)
