"""The linear algebra of the pack and the one owner of its tolerances."""

# torch.linalg has no types: its functions are called here alone, and come out typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from typing import NamedTuple

import torch
from torch import Tensor

from .eigensolvers import Eigensolver, by_rule
from .errors import ShapeMismatch

# Singular values below this share of the largest are rounding: a float16 file carries 11 bits, a float32 product of
# width 10,000 about 1e-6. The directions that belong to them are arbitrary and must not enter a basis.
NUMERICAL_RANK = 1e-6

# Cosine of a principal angle under which Kato's rotation is taken as undefined (the plane's rotation is 1/cos times M,
# and float32 leaves nothing of it below this).
RIGHT_ANGLE = 1e-4

# Relative distance under which two deltas count as the same: float32 factors of width 10,000 agree to about 1e-6.
SAME_DELTA = 1e-5

# Distance between two models' outputs, as a share of an adapter's effect, under which they count as the same.
# Measured on the small SD 1.5: an adapter merged in two steps of float32 is off by 4e-5 of its effect, one merged from
# float16 differences by 3e-4. Without a tolerance such rounding would be a way to go, and every adapter leads off it.
SAME_OUTPUT = 1e-3

# The same as a share of the noise, for answers that were kept in float16: that loses up to 5e-4 of them.
SAME_ANSWER = 1e-3

# The largest angle (boundary_error) up to which a float32 Gram matrix is good enough. Measured over flat and steep
# spectra of 640 to 2048: the delta's error is 2e-6 plus about 2e-3 of this angle, and 2e-4 is what we promise.
CLEAR_GAP = 5e-3

# Short sides from which float32 is used at all. On smaller ones float64 costs nothing worth saving, and the angle is
# spread over so few directions that the delta shows all of it (4 rows: an angle of 1.6e-3 gave an error of 3e-3).
FLOAT32_FROM = 512

# How far from orthonormal a basis may be: LAPACK's own vectors are off by 6e-6 in float32.
ORTHONORMAL = 1e-5

# Share of a triangular factor's largest diagonal under which a matrix is not taken to be of full rank. It is no exact
# test (the diagonal only bounds the smallest singular value from above), so it errs on the side of the decomposition.
_FULL_RANK = 1e-3

_GRAM_BLOCKS = 8  # measured: 0.6 of the time of the whole product from 640 to 11520 columns; more gain nothing


class LeadingSvd(NamedTuple):
    """left (m, k), singular_values (k) descending, right (n, k), k at most the numerical rank: directions without
    weight have no meaning and are left out. precise: computed in float64, so that every smaller cut is as exact."""

    left: Tensor
    singular_values: Tensor
    right: Tensor
    precise: bool


def leading_svd(matrix: Tensor, count: int, eigenpairs: Eigensolver = by_rule) -> LeadingSvd:
    """The `count` leading singular triplets of a matrix (m, n), exactly, through the Gram matrix of its short side.

    Several times cheaper than an SVD of the matrix, and the cost falls with `count`: a partial eigensolver finds no
    more than is asked for. float32 where that is safe (a large matrix, up to half of its short side, a clear gap), and
    float64 otherwise: forming the Gram matrix squares the condition. No randomised method: the spectra of base weights
    are too flat for one (25 to 80 % error in the delta).
    """
    if matrix.ndim != 2:
        raise ShapeMismatch(f"An SVD needs a matrix, found a tensor of shape {tuple(matrix.shape)}.")
    if matrix.shape[0] > matrix.shape[1]:
        turned = leading_svd(matrix.mT, count, eigenpairs)
        return LeadingSvd(turned.right, turned.singular_values, turned.left, turned.precise)
    short = matrix.shape[0]
    count = min(count, short)
    if count < 1:  # of a weight of zeros nothing leads
        nothing = matrix.new_empty(0)
        return LeadingSvd(matrix.new_empty(short, 0), nothing, matrix.new_empty(matrix.shape[1], 0), True)
    if matrix.dtype == torch.float32 and short >= FLOAT32_FROM and count <= short // 2:
        eigenvalues, eigenvectors = eigenpairs(gram(matrix), count + 1)
        if boundary_error(eigenvalues, count) <= CLEAR_GAP:
            return _from_eigenpairs(matrix, eigenvalues[:count], eigenvectors[:, :count], precise=False)
    # MPS has no float64: the decomposition alone goes to the CPU there.
    wide = matrix.to("cpu" if matrix.device.type == "mps" else matrix.device, torch.float64)
    eigenvalues, eigenvectors = eigenpairs(gram(wide), count)
    singular_values = eigenvalues.clamp(min=0).sqrt()
    kept = int((singular_values > NUMERICAL_RANK * singular_values[:1]).sum())
    found = _from_eigenpairs(wide, eigenvalues[:kept], eigenvectors[:, :kept], precise=True)
    return LeadingSvd(found.left.to(matrix), found.singular_values.to(matrix), found.right.to(matrix), True)


def gram(matrix: Tensor) -> Tensor:
    """The lower triangle of X X^T (m, m), in the matrix's precision; what stands above it has no meaning.

    In blocks of rows: nearly half of the products of a whole X X^T would be wasted.
    """
    rows = -(-matrix.shape[0] // _GRAM_BLOCKS)
    product = matrix.new_empty(matrix.shape[0], matrix.shape[0])
    for first in range(0, matrix.shape[0], rows):
        block = slice(first, first + rows)
        torch.mm(matrix[first:], matrix[block].mT, out=product[first:, block])
    return product


def boundary_error(eigenvalues: Tensor, count: int) -> float:
    """The angle (radians) by which float32 rounding can turn the space of the first `count` of these eigenvalues of a
    Gram matrix, descending: eps s_1^2 / (s_k^2 - s_{k+1}^2), Davis and Kahan's bound; infinite without a gap."""
    gap = float(eigenvalues[count - 1] - eigenvalues[count])
    return float("inf") if gap <= 0 else torch.finfo(torch.float32).eps * float(eigenvalues[0]) / gap


def complete_bases(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """Orthonormal bases (m, q) and (n, q) of everything that a matrix of full rank q = min(m, n) writes and reads,
    without an eigensolver: the short side is all of its space, the long side comes from a Cholesky factor of the Gram
    matrix (half the time of a QR). None where the matrix is not clearly of full rank."""
    if matrix.shape[0] > matrix.shape[1]:
        turned = complete_bases(matrix.mT)
        return None if turned is None else (turned[1], turned[0])
    short, long = matrix.shape
    wide = matrix.to("cpu" if matrix.device.type == "mps" else matrix.device, torch.float64)
    factor, failed = torch.linalg.cholesky_ex(gram(wide))
    diagonal = factor.diagonal()
    if int(failed) or not short or float(diagonal.min()) <= _FULL_RANK * float(diagonal.max()):
        return None
    identity = torch.eye(short, dtype=matrix.dtype, device=matrix.device)
    if short == long:
        return identity, identity.clone()
    one = torch.eye(short, dtype=torch.float64, device=wide.device)
    unmixed = torch.linalg.solve_triangular(factor, one, upper=False).to(matrix)  # (q, q)
    return identity, _orthonormal(matrix.mT @ unmixed.mT, float(diagonal.max() / diagonal.min()))


def _from_eigenpairs(matrix: Tensor, eigenvalues: Tensor, eigenvectors: Tensor, *, precise: bool) -> LeadingSvd:
    """right = X^T left / s: its last directions carry the rounding of the first, s_1^2 / s_k^2 times."""
    singular_values = eigenvalues.clamp(min=0).sqrt()
    amplified = float(eigenvalues[0] / eigenvalues[-1]) if len(eigenvalues) else 1.0
    return LeadingSvd(eigenvectors, singular_values, _orthonormal(matrix.mT @ eigenvectors, amplified), precise)


def _orthonormal(orthogonal: Tensor, amplified: float) -> Tensor:
    """Columns (n, k), orthogonal but for rounding times `amplified`, at unit length, in place; with a Newton-Schulz
    step where that is more than a projector may lack (the square of the lack is left of it)."""
    orthogonal /= torch.linalg.vector_norm(orthogonal, dim=0)
    if amplified * torch.finfo(orthogonal.dtype).eps <= ORTHONORMAL:
        return orthogonal
    one = torch.eye(orthogonal.shape[1], dtype=orthogonal.dtype, device=orthogonal.device)
    return orthogonal @ (1.5 * one - 0.5 * (orthogonal.mT @ orthogonal))


def thin_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (m, q), singular values (q) descending, V^T (q, n), q = min(m, n), for small matrices."""
    left, singular_values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left, singular_values, right


def qr(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal Q (m, q) and upper triangular R (q, n) with Q R = matrix, q = min(m, n)."""
    orthonormal, triangular = torch.linalg.qr(matrix)
    return orthonormal, triangular


def frobenius(matrix: Tensor) -> float:
    """||X||_F, summed in float64: in float32 torch was off by 5e-6 of the norm of a 320 x 320 matrix."""
    precise = None if matrix.device.type == "mps" else torch.float64
    return float(torch.linalg.vector_norm(matrix, dtype=precise))


def project(basis: Tensor, x: Tensor) -> Tensor:
    """P x = U (U^T x) for an orthonormal basis U (m, k) and x (m, c); P itself is never formed."""
    return basis @ (basis.mT @ x)


def split(basis: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """(P x, P' x): the parts of x inside and outside of a subspace."""
    inside = project(basis, x)
    return inside, x - inside


def reject(basis: Tensor, x: Tensor) -> Tensor:
    """P' x = x - U (U^T x): the null-space part; a basis of the complement is never formed."""
    return x - project(basis, x)
