"""Follow the channels of a narrower child through the model, from the sides that both share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..layers import Base, Layer, LayerPair, Skipped
from ..progress import Progress, silent
from .channels import Channels, find_channels

_Sizes = tuple[int, int]  # channels in the source, channels in the target


@dataclass(frozen=True)
class ChannelMatching:
    """channels: target layer -> the source's channels that it kept. Every pair is there, or in `refused`."""

    pairs: tuple[LayerPair, ...]
    channels: Mapping[str, Channels]
    refused: tuple[Skipped, ...]


@dataclass(frozen=True)
class _Pool:
    """The maps of channels that are known so far, by their sizes."""

    maps: dict[_Sizes, list[Tensor]] = field(default_factory=dict[_Sizes, list[Tensor]])

    def known(self, sizes: _Sizes) -> list[Tensor]:
        """A side of one size may be shared as it is: the text encoder's output, the latent, the time embedding."""
        shared = [torch.arange(sizes[0])] if sizes[0] == sizes[1] else []
        return shared + self.maps.get(sizes, [])

    def add(self, sizes: _Sizes, found: Tensor) -> None:
        if not any(torch.equal(found.cpu(), one) for one in self.known(sizes)):
            self.maps.setdefault(sizes, []).append(found.cpu())


def match_by_channels(
    source: Base,
    target: Base,
    pairs: Sequence[tuple[Layer, Layer]],
    *,
    device: torch.device,
    progress: Progress = silent,
) -> ChannelMatching:
    """Find the channels that each target layer kept of its source layer (method.md section 5).

    A layer is solved once a map of one of its sides is known; its other side's map then joins the pool. Layers are gone
    through until nothing more is found. Memory: one pair of layers, and their channels' correlations.
    """
    pool, found = _Pool(), dict[str, tuple[LayerPair, Channels]]()
    waiting = [pair for pair in pairs if _why_impossible(pair) is None]
    tried: dict[str, tuple[int, int]] = {}
    done, total = 0, 2 * len(pairs)
    while waiting:
        before = len(found)
        for one in waiting:
            progress(min(done, total), total, one[1].name)
            done += 1
            channels = _solve(source, target, one, pool, tried, device)
            if channels is not None:
                found[one[1].name] = LayerPair(*one, channels.why()), channels
        waiting = [one for one in waiting if one[1].name not in found]
        if len(found) == before:
            break
    progress(total, total, "")
    refused = tuple(
        Skipped(one[0].name, _why_impossible(one) or _why_unsolved(one, tried))
        for one in pairs
        if one[1].name not in found
    )
    return ChannelMatching(
        tuple(pair for pair, _ in found.values()), {name: channels for name, (_, channels) in found.items()}, refused
    )


def _solve(
    source: Base,
    target: Base,
    pair: tuple[Layer, Layer],
    pool: _Pool,
    tried: dict[str, tuple[int, int]],
    device: torch.device,
) -> Channels | None:
    """One layer by the maps that it has not tried yet; what it finds joins the pool."""
    rows, columns = _sizes(pair)
    row_maps, column_maps = pool.known(rows), pool.known(columns)
    seen = tried.get(pair[1].name, (0, 0))
    if seen == (len(row_maps), len(column_maps)):
        return None
    tried[pair[1].name] = len(row_maps), len(column_maps)
    weights = _by_channel(source, pair[0], device), _by_channel(target, pair[1], device)
    fresh = row_maps[seen[0] :], column_maps[seen[1] :]
    channels = find_channels(*weights, *([one.to(device) for one in maps] for maps in fresh))
    if channels is not None:
        pool.add(rows, channels.rows)
        pool.add(columns, channels.columns)
    return channels


def _by_channel(base: Base, layer: Layer, device: torch.device) -> Tensor:
    """A weight as (rows, input channels, taps)."""
    return base.read(layer).to(device).reshape(*layer.weight.shape[:2], -1)


def _sizes(pair: tuple[Layer, Layer]) -> tuple[_Sizes, _Sizes]:
    """(rows, input channels), each as (source, target)."""
    one, other = pair[0].weight.shape, pair[1].weight.shape
    return (one[0], other[0]), (one[1], other[1])


def _why_impossible(pair: tuple[Layer, Layer]) -> str | None:
    one, other = (list(layer.weight.shape) for layer in pair)
    shapes = f"{one} in the source, {other} in the target"
    if one[2:] != other[2:]:
        return f"the shapes differ: {shapes}: kernels of different size have no common delta"
    if other[0] > one[0] or other[1] > one[1]:
        return f"the target is wider, {shapes}: nothing in the weights says what its new channels should do"
    return None


def _why_unsolved(pair: tuple[Layer, Layer], tried: Mapping[str, tuple[int, int]]) -> str:
    one, other = (list(layer.weight.shape) for layer in pair)
    count = sum(tried.get(pair[1].name, (0, 0)))
    start = f"the widths differ, {one} in the source, {other} in the target"
    if count == 0:
        return f"{start}, and neither side is shared by both bases or was followed from a layer that is"
    return (
        f"{start}, and none of {count} known orders of its channels brings the weights above chance: the target "
        "was not made by leaving out channels of the source. Weights alone cannot say how two such layers correspond"
    )
