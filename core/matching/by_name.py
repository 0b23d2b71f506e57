"""Pairs layers of the same name, as loading the old LoRA on the target does."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..layers import Layer, LayerPair, Skipped
from .channels import Channels


@dataclass(frozen=True)
class Matching:
    """Every requested source layer is in `pairs`, once or several times, or in `unpaired` with the reason.

    channels: target layer -> the channels that it kept of its source layer, for narrower target layers.
    """

    pairs: tuple[LayerPair, ...]
    unpaired: tuple[Skipped, ...]
    channels: Mapping[str, Channels] = field(default_factory=dict[str, Channels])

    def source_weight(self, pair: LayerPair, weight: Tensor) -> Tensor:
        """The source weight cut to the target's shape: all of it, or the channels that a narrower target kept."""
        channels = self.channels.get(pair.target.name)
        return weight if channels is None else channels.weight(weight)


def match_by_name(source: Mapping[str, Layer], target: Mapping[str, Layer], wanted: Iterable[str]) -> Matching:
    """Pair the requested layers with the target's layers of the same name and shape, from headers alone."""
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
