"""Follow the channels of a narrower child through the model, from the sides that both share."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..layers import Base, Layer, LayerPair, Skipped
from ..progress import Progress, silent
from .by_name import Matching
from .channels import Channels, find_channels

_Sizes = tuple[int, int]  # channels in the source, channels in the target


_Maps = Mapping[_Sizes, tuple[Tensor, ...]]  # the maps of channels that are known so far


def match_by_channels(
    source: Base, target: Base, matching: Matching, *, device: torch.device, progress: Progress = silent
) -> Matching:
    """Add to a matching the layers that stayed alone because the target's layer of their name is narrower.

    The channels that it kept are followed from the sides that both bases share (docs/method.md, section 5): a layer is
    solved once a map of one of its sides is known, and its other side's map then joins the pool. All layers of the
    bases are gone through, wanted or not, until nothing more is found: the chain leads through layers that no adapter
    touches.
    Memory: one pair of layers and their channels' correlations. Cost on two cores: 0.1 s for a layer of 1280 x 1280,
    0.5 s for its 3 x 3 convolution, 3 s for 10240 x 1280, once or twice each.
    """
    fed = {pair.target.name for pair in matching.pairs}
    pairs = [
        LayerPair(layer, target.layers[name], "")
        for name, layer in source.layers.items()
        if name in target.layers and target.layers[name].weight.shape != layer.weight.shape and name not in fed
    ]
    if not {pair.source.name for pair in pairs} & {one.layer for one in matching.unpaired}:
        return matching
    channels, tried = _follow(source, target, pairs, device, progress)
    return _added(matching, {pair.source.name: pair for pair in pairs}, channels, tried)


def _added(
    matching: Matching,
    narrower: Mapping[str, LayerPair],
    channels: Mapping[str, Channels],
    tried: Mapping[str, int],
) -> Matching:
    """What was found for the layers that stayed alone, and for the others the reason."""
    pairs, unpaired = list(matching.pairs), list[Skipped]()
    for one in matching.unpaired:
        pair = narrower.get(one.layer)
        if pair is not None and one.layer in channels:
            pairs.append(replace(pair, why=channels[one.layer].why()))
        elif pair is not None:
            unpaired.append(replace(one, reason=_why_impossible(pair) or _why_unsolved(pair, tried)))
        else:
            unpaired.append(one)
    wanted = {pair.target.name for pair in pairs}
    kept = {name: one for name, one in channels.items() if name in wanted}
    return Matching(tuple(pairs), tuple(unpaired), {**matching.channels, **kept})


def _follow(
    source: Base, target: Base, pairs: Sequence[LayerPair], device: torch.device, progress: Progress
) -> tuple[dict[str, Channels], dict[str, int]]:
    """Go through the layers until nothing more is found: the channels by target layer, and how many maps it tried."""
    maps: _Maps = {}
    found: dict[str, Channels] = {}
    tried: dict[str, tuple[int, int]] = {}
    waiting = [pair for pair in pairs if _why_impossible(pair) is None]
    before = -1
    while waiting and len(found) > before:
        before = len(found)
        for pair in waiting:
            progress(len(found), len(pairs), pair.target.name)
            name, (rows, columns) = pair.target.name, _sizes(pair)
            row_maps, column_maps = _known(maps, rows), _known(maps, columns)
            seen = tried.get(name, (0, 0))
            tried[name] = len(row_maps), len(column_maps)
            if seen == tried[name]:
                continue
            weights = _by_channel(source, pair.source, device), _by_channel(target, pair.target, device)
            channels = find_channels(*weights, row_maps[seen[0] :], column_maps[seen[1] :])
            if channels is not None:
                found[name] = channels
                maps = _with(_with(maps, rows, channels.rows), columns, channels.columns)
        waiting = [pair for pair in waiting if pair.target.name not in found]
    progress(len(pairs), len(pairs), "")
    return found, {name: sum(counts) for name, counts in tried.items()}


def _known(maps: _Maps, sizes: _Sizes) -> tuple[Tensor, ...]:
    """A side of one size may be shared as it is: the text encoder's output, the latent, the time embedding."""
    shared = (torch.arange(sizes[0]),) if sizes[0] == sizes[1] else ()
    return *shared, *maps.get(sizes, ())


def _with(maps: _Maps, sizes: _Sizes, found: Tensor) -> _Maps:
    if any(torch.equal(found, one) for one in _known(maps, sizes)):
        return maps
    return {**maps, sizes: (*maps.get(sizes, ()), found)}


def _by_channel(base: Base, layer: Layer, device: torch.device) -> Tensor:
    """A weight as (rows, input channels, taps)."""
    return base.read(layer).to(device).reshape(*layer.weight.shape[:2], -1)


def _sizes(pair: LayerPair) -> tuple[_Sizes, _Sizes]:
    """(rows, input channels), each as (source, target)."""
    one, other = pair.source.weight.shape, pair.target.weight.shape
    return (one[0], other[0]), (one[1], other[1])


def _why_impossible(pair: LayerPair) -> str | None:
    one, other = (list(layer.weight.shape) for layer in (pair.source, pair.target))
    shapes = f"{one} in the source, {other} in the target"
    if one[2:] != other[2:]:
        return f"the shapes differ: {shapes}: kernels of different size have no common delta"
    if other[0] > one[0] or other[1] > one[1]:
        return f"the target is wider, {shapes}: nothing in the weights says what its new channels should do"
    return None


def _why_unsolved(pair: LayerPair, tried: Mapping[str, int]) -> str:
    one, other = (list(layer.weight.shape) for layer in (pair.source, pair.target))
    count = tried.get(pair.target.name, 0)
    start = f"the widths differ, {one} in the source, {other} in the target"
    if count == 0:
        return f"{start}, and neither side is shared by both bases or was followed from a layer that is"
    return (
        f"{start}, and none of {count} known orders of its channels brings the weights above chance: the target "
        "was not made by leaving out channels of the source. Weights alone cannot say how two such layers correspond"
    )
