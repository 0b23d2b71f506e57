"""Pairs layers with a narrower target layer, by finding which channels the target kept."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..layers import Base, Layer, LayerPair, Skipped
from ..progress import Progress, silent
from .by_name import Matching
from .channels import Channels, find_channels

_Sizes = tuple[int, int]  # number of channels in the source and in the target
_Maps = Mapping[_Sizes, tuple[Tensor, ...]]  # known channel maps: for each target channel its source channel


def match_by_channels(
    source: Base, target: Base, matching: Matching, *, device: torch.device, progress: Progress = silent
) -> Matching:
    """Add pairs for the unpaired layers whose target layer of the same name is narrower.

    Channel maps spread from the sides that both bases share (docs/method.md, section 5): once one side of a layer has a
    known map, the weights give the map of its other side, and that map helps to solve further layers. The search uses
    all layers of the bases, because the chain also leads through layers that the adapter does not change.
    Memory: one pair of layers and the correlations of their channels. Cost on two cores: 0.1 s for a layer of
    1280 x 1280, 0.5 s for its 3 x 3 convolution, 3 s for 10240 x 1280, once or twice for each layer.
    """
    paired = {pair.target.name for pair in matching.pairs}
    pairs = [
        LayerPair(layer, target.layers[name], "")
        for name, layer in source.layers.items()
        if name in target.layers and target.layers[name].weight.shape != layer.weight.shape and name not in paired
    ]
    if not {pair.source.name for pair in pairs} & {skipped.layer for skipped in matching.unpaired}:
        return matching
    channels, tried = _solve_layers(source, target, pairs, device, progress)
    return _add_pairs(matching, {pair.source.name: pair for pair in pairs}, channels, tried)


def _add_pairs(
    matching: Matching,
    narrower: Mapping[str, LayerPair],
    channels: Mapping[str, Channels],
    tried: Mapping[str, int],
) -> Matching:
    """Add a pair for each solved layer; each unsolved layer gets a more precise reason."""
    pairs, unpaired = list(matching.pairs), list[Skipped]()
    for skipped in matching.unpaired:
        pair = narrower.get(skipped.layer)
        if pair is not None and skipped.layer in channels:
            pairs.append(replace(pair, why=channels[skipped.layer].why()))
        elif pair is not None:
            unpaired.append(replace(skipped, reason=_why_impossible(pair) or _why_unsolved(pair, tried)))
        else:
            unpaired.append(skipped)
    paired = {pair.target.name for pair in pairs}
    new_channels = {name: kept for name, kept in channels.items() if name in paired}
    return Matching(tuple(pairs), tuple(unpaired), {**matching.channels, **new_channels})


def _solve_layers(
    source: Base, target: Base, pairs: Sequence[LayerPair], device: torch.device, progress: Progress
) -> tuple[dict[str, Channels], dict[str, int]]:
    """Go through the layers until a pass solves none of them.

    Returns the channels by target layer, and how many channel maps were tried for each layer.
    """
    maps: _Maps = {}
    solved: dict[str, Channels] = {}
    tried: dict[str, tuple[int, int]] = {}
    waiting = [pair for pair in pairs if _why_impossible(pair) is None]
    before = -1
    while waiting and len(solved) > before:
        before = len(solved)
        for pair in waiting:
            progress(len(solved), len(pairs), pair.target.name)
            name, (rows, columns) = pair.target.name, _sizes(pair)
            row_maps, column_maps = _known_maps(maps, rows), _known_maps(maps, columns)
            seen = tried.get(name, (0, 0))
            tried[name] = len(row_maps), len(column_maps)
            if seen == tried[name]:
                continue
            weights = (
                _read_by_channel(source, pair.source, device),
                _read_by_channel(target, pair.target, device),
            )
            channels = find_channels(*weights, row_maps[seen[0] :], column_maps[seen[1] :])
            if channels is not None:
                solved[name] = channels
                maps = _add_map(_add_map(maps, rows, channels.rows), columns, channels.columns)
        waiting = [pair for pair in waiting if pair.target.name not in solved]
    progress(len(pairs), len(pairs), "")
    return solved, {name: sum(counts) for name, counts in tried.items()}


def _known_maps(maps: _Maps, sizes: _Sizes) -> tuple[Tensor, ...]:
    """The known maps of one side. Sides of equal size may share their channels one to one: the text encoder's output,
    the latent, the time embedding."""
    shared = (torch.arange(sizes[0]),) if sizes[0] == sizes[1] else ()
    return *shared, *maps.get(sizes, ())


def _add_map(maps: _Maps, sizes: _Sizes, channel_map: Tensor) -> _Maps:
    if any(torch.equal(channel_map, known) for known in _known_maps(maps, sizes)):
        return maps
    return {**maps, sizes: (*maps.get(sizes, ()), channel_map)}


def _read_by_channel(base: Base, layer: Layer, device: torch.device) -> Tensor:
    """A weight as (rows, input channels, taps)."""
    return base.read(layer).to(device).reshape(*layer.weight.shape[:2], -1)


def _sizes(pair: LayerPair) -> tuple[_Sizes, _Sizes]:
    """(rows, input channels), each as (source, target)."""
    source, target = pair.source.weight.shape, pair.target.weight.shape
    return (source[0], target[0]), (source[1], target[1])


def _why_impossible(pair: LayerPair) -> str | None:
    source, target = (list(layer.weight.shape) for layer in (pair.source, pair.target))
    shapes = f"{source} in the source, {target} in the target"
    if source[2:] != target[2:]:
        return f"the shapes differ, {shapes}: kernels of different sizes cannot share a delta"
    if target[0] > source[0] or target[1] > source[1]:
        return f"the target is wider, {shapes}: nothing in the weights says what its new channels should do"
    return None


def _why_unsolved(pair: LayerPair, tried: Mapping[str, int]) -> str:
    source, target = (list(layer.weight.shape) for layer in (pair.source, pair.target))
    count = tried.get(pair.target.name, 0)
    widths = f"the widths differ, {source} in the source, {target} in the target"
    if count == 0:
        return f"{widths}, and no other layer tells which channels the target kept on either side"
    return (
        f"{widths}, and none of {count} known channel maps makes the weights more alike than chance: the target was "
        "not made by removing channels of the source. Weights alone cannot say how two such layers correspond"
    )
