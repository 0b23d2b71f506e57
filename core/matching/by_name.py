"""Which source layer feeds which target layer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..layers import Layer, LayerPair, Skipped


@dataclass(frozen=True)
class Matching:
    """Every wanted source layer is in `pairs`, or in `unpaired` with the reason."""

    pairs: tuple[LayerPair, ...]
    unpaired: tuple[Skipped, ...]


def match_by_name(source: Mapping[str, Layer], target: Mapping[str, Layer], wanted: Iterable[str]) -> Matching:
    """Pair the wanted layers with the target's layers of the same name and shape, from headers alone."""
    pairs: list[LayerPair] = []
    skipped: list[Skipped] = []
    for name in wanted:
        if name not in source:
            skipped.append(Skipped(name, "the source base has no such layer"))
        elif name not in target:
            skipped.append(Skipped(name, "the target base has no layer of this name"))
        elif source[name].weight.shape != target[name].weight.shape:
            shapes = f"{list(source[name].weight.shape)} in the source, {list(target[name].weight.shape)} in the target"
            skipped.append(Skipped(name, f"the shapes differ: {shapes}"))
        else:
            pairs.append(LayerPair(source[name], target[name], "same name and shape"))
    return Matching(tuple(pairs), tuple(skipped))
