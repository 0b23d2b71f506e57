"""Extracts the difference of two bases as low-rank deltas."""

from collections.abc import Sequence
from dataclasses import dataclass

from .delta import LowRankDelta
from .errors import InvalidSetting, NothingToTransfer
from .layers import Base, LayerPair, Skipped
from .linalg import frobenius, leading_svd
from .matching import match_by_name
from .resources import Resources


@dataclass(frozen=True)
class Extracted:
    """deltas: by layer, W_b - W_a approximated. skipped: layers that only one base has, or in another shape. equal: how
    many layers are the same in both. kept: the share of the sum of ||W_b - W_a||^2 that the deltas hold."""

    deltas: dict[str, LowRankDelta]
    skipped: tuple[Skipped, ...]
    equal: int
    kept: float


def extract_difference(
    first: Base, second: Base, layers: Sequence[str], rank: int, energy: float = 1.0, using: Resources | None = None
) -> Extracted:
    """The best approximation of second - first in each of these layers (Eckart-Young).

    rank: the largest rank of a layer. energy: below 1, the smallest rank that holds this share of ||W_b - W_a||^2.
    NothingToTransfer if no layer differs; InvalidSetting for numbers out of range.
    """
    if rank < 1 or not 0 < energy <= 1:
        raise InvalidSetting(f"Extract: expected a rank of at least 1 and an energy in (0, 1], found {rank}, {energy}.")
    resources = using or Resources()
    matching = match_by_name(first.layers, second.layers, layers)

    def extract_pair(pair: LayerPair) -> tuple[LowRankDelta | None, float, float]:
        difference = second.read(pair.target) - first.read(pair.source)
        total = frobenius(difference) ** 2
        if total == 0:
            return None, 0.0, 0.0
        svd = leading_svd(difference, rank)
        energies = svd.singular_values.double().square()
        count = len(energies)
        if energy < 1:
            count = min(count, 1 + int((energies.cumsum(0) < energy * total).sum()))
        root = svd.singular_values[:count].sqrt()
        delta = LowRankDelta(svd.left[:, :count] * root, (svd.right[:, :count] * root).mT.contiguous())
        return delta, total, float(energies[:count].sum())

    def cost(pair: LayerPair) -> int:
        rows, columns = pair.source.weight.matrix_shape
        return rows * columns * min(rows, columns)

    results = resources.over_layers(matching.pairs, extract_pair, cost, lambda pair: pair.source.name)
    deltas = {
        pair.source.name: delta
        for pair, (delta, _, _) in zip(matching.pairs, results, strict=True)
        if delta is not None
    }
    if not deltas:
        raise NothingToTransfer(
            f"From {first.name} to {second.name}: expected layers that differ, found none among "
            f"{len(matching.pairs)} layers of equal names and shapes."
        )
    total = sum(result[1] for result in results)
    return Extracted(
        deltas, matching.unpaired, len(results) - len(deltas), sum(result[2] for result in results) / total
    )
