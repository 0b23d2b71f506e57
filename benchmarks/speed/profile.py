"""Profiles a cold layer pair against the floor, which follows from the machine's peak speed of products and reading."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from core.cache import digest_of
from core.drift import compare_weights
from core.eigensolvers import by_rule
from core.linalg import gram
from core.methods import LayerPairBases, method_named
from core.similarity import side_similarity
from core.subspace import Decomposition, decompose

from .clock import best_of
from .ours import K, cache_in
from .weights import Shape, lora_on, matrix_shape, write_pair

_PEAK = 2048  # a product of this size runs at peak speed


@dataclass(frozen=True)
class Floor:
    """Floating-point operations and bytes read from the page cache, per second of one core."""

    operations: float
    bytes: float


def measure_floor(folder: Path) -> Floor:
    """Measures the peak speed of this machine's products and of reading from the page cache."""
    square = torch.randn(_PEAK, _PEAK)
    product = torch.empty_like(square)
    seconds = best_of(5, lambda: torch.mm(square, square, out=product)).cpu
    source, _ = write_pair(folder / "floor", {"layer": (4096, 4096)})
    reading = best_of(3, lambda: source.file.path.read_bytes()).cpu
    return Floor(2 * _PEAK**3 / seconds, source.file.path.stat().st_size / reading)


def measure_profile(shape: Shape, folder: Path, floor: Floor) -> dict[str, float]:
    """CPU-seconds of each step for a pair of layers, and of the floor.

    The floor is reading both files, and the products that every implementation needs: the Gram matrices (half of each,
    as they are symmetric), the long sides' bases and the comparison."""
    source, target = write_pair(folder / "pair", {"layer": shape})
    layer = source.layers["layer"]
    weights = source.read(layer), target.read(layer)
    delta = lora_on(source, 1)["layer"]
    flat = [weight if weight.shape[0] <= weight.shape[1] else weight.mT for weight in weights]
    short, long = flat[0].shape
    k = min(K, short)
    grams = [gram(matrix) for matrix in flat]
    decompositions: tuple[Decomposition, Decomposition] = (decompose(weights[0], k), decompose(weights[1], k))
    bases = decompositions[0].cut(k), decompositions[1].cut(k)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    cache = cache_in(folder / "cache")
    steps = {
        "reading": lambda: (source.read(layer), target.read(layer)),
        "hashing": lambda: [digest_of(weight) for weight in weights],
        "weights compared": lambda: compare_weights(*weights, delta),
        "Gram matrices": lambda: [gram(matrix) for matrix in flat],
        "eigensolver": lambda: [by_rule(matrix, min(k + 1, short)) for matrix in grams],
        "similarity": lambda: [
            side_similarity(bases[0].left, bases[1].left),
            side_similarity(bases[0].right, bases[1].right),
        ],
        "into the cache": lambda: [
            cache.keep(name, decomposition) for name, decomposition in zip("st", decompositions, strict=True)
        ],
        "out of the cache": lambda: [cache.find(name, k) for name in "st"],
        "projection": lambda: method_named("prolora").function(delta, LayerPairBases(subspaces=bases)),
    }
    seconds = {name: best_of(3, step).cpu for name, step in steps.items()}
    whole = best_of(2, lambda: [decompose(weight, k) for weight in weights]).cpu
    seconds["long side's basis"] = max(0.0, whole - seconds["Gram matrices"] - seconds["eigensolver"])
    operations = 2 * (short * short * long + 2 * short * long * k) + 2 * k * k * (short + long)
    seconds["floor"] = operations / floor.operations + 2 * 2 * short * long / floor.bytes
    return seconds


def label(shape: Shape) -> str:
    rows, columns = matrix_shape(shape)
    return f"{rows} x {columns}"
