"""Rotates the source's subspaces onto the target's by the smallest rotation."""

from torch import Tensor

from ..delta import LowRankDelta
from ..linalg import RIGHT_ANGLE, thin_svd
from .method import LayerPairBases, Method, Projected
from .prolora_full import map_between_subspaces


def direct_rotation(source_basis: Tensor, target_basis: Tensor, x: Tensor) -> tuple[Tensor, int]:
    """K x (m, c) with K the orthogonal polar factor of M = P_t P_s + P'_t P'_s, and the number of directions where K is
    undefined. Bases are orthonormal (m, k), x is (m, c).

    With principal vectors a_i, b_i and cosines c_i, M acts on each plane span(a_i, b_i) as c_i times the rotation that
    takes a_i to b_i, and as the identity outside all of them. Adding the missing (1 - c_i) of each rotation gives
    K = M + sum_i (1 - c_i) b_i a_i^T + (c_i b_i - a_i)(b_i - c_i a_i)^T / (1 + c_i).
    Do not divide by the sine instead: that amplifies rounding where the subspaces agree. In planes at a right angle K
    is undefined, and M is used. Source: T. Kato, Perturbation Theory for Linear Operators, I.4.6.
    """
    left, cosines, right_t = thin_svd(source_basis.mT @ target_basis)
    defined = cosines > RIGHT_ANGLE
    undefined = max(source_basis.shape[1], target_basis.shape[1]) - int(defined.sum())
    c = cosines[defined].clamp(max=1)[:, None]
    a, b = source_basis @ left[:, defined], target_basis @ right_t.mT[:, defined]
    along_a, along_b = a.mT @ x, b.mT @ x
    turned = (along_b - c * along_a) / (1 + c)
    missing = b @ ((1 - c) * along_a + c * turned) - a @ turned
    return map_between_subspaces(source_basis, target_basis, x) + missing, undefined


def rotate(delta: LowRankDelta, bases: LayerPairBases) -> Projected:
    """dW_t = K_L dW_s K_R with Kato's direct rotations K (docs/method.md, section 3). Keeps the rank and the norm."""
    source, target = bases.source_and_target_subspaces()
    up, undefined_left = direct_rotation(source.left, target.left, delta.up)
    reading, undefined_right = direct_rotation(source.right, target.right, delta.down.mT)
    return Projected(LowRankDelta(up, reading.mT), undefined_left + undefined_right)


ROTATE = Method(
    name="rotate",
    function=rotate,
    summary="Rotates the delta from the source's subspaces to the target's, by the smallest rotation; keeps its norm.",
    source="Kato's direct rotation, applied to ProLoRA's projectors",
    keeps_whole_delta=True,
    needs_subspaces=True,
)
