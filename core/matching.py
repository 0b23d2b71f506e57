"""Which source layer feeds which target layer."""

from collections.abc import Iterable, Mapping

from .layers import Layer, LayerPair, Skipped


def match_by_name(
    source: Mapping[str, Layer], target: Mapping[str, Layer], wanted: Iterable[str]
) -> tuple[tuple[LayerPair, ...], tuple[Skipped, ...]]:
    """Pair the wanted layers with the target's layers of the same name and shape, from headers alone.

    Every wanted layer is in exactly one of the two results.
    """
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
    return tuple(pairs), tuple(skipped)
