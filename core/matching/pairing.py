"""From a map of blocks to pairs of layers, and what is lost with the blocks that the target lacks."""

from collections.abc import Iterable, Mapping

from ..delta import LowRankDelta
from ..layers import Layer, LayerPair, Skipped
from .block_map import BlockMap
from .blocks import Block, blocks_of
from .by_name import Matching
from .channels import Channels


def match_by_blocks(
    source: Mapping[str, Layer], target: Mapping[str, Layer], block_map: BlockMap, wanted: Iterable[str]
) -> Matching:
    """Pair the wanted source layers with the layers of the same role in every target block that theirs feeds.

    One source layer may be in several pairs (a grown model); one that is in none says why.
    """
    target_blocks = {block.name: block for block in blocks_of(target.values())}
    matches = {match.target: match for match in block_map.matches if match.source is not None}
    alone = {block.source: block.why for block in block_map.left_alone}
    pairs: list[LayerPair] = []
    skipped: list[Skipped] = []
    for name in wanted:
        if name not in source:
            skipped.append(Skipped(name, "the source base has no such layer"))
            continue
        layer = source[name]
        block = layer.block or layer.name
        fed = [target_blocks[one] for one in block_map.targets_of(block)]
        fitting = [one.layers[layer.role] for one in fed if _fits(layer, one)]
        pairs += [
            LayerPair(layer, one, _why(block, one.block or one.name, matches[one.block or one.name].why))
            for one in fitting
        ]
        if not fitting:
            skipped.append(
                Skipped(name, _why_not(layer, fed, alone.get(block, "the block map feeds its block to nothing")))
            )
    return Matching(tuple(pairs), tuple(skipped))


def share_lost(matching: Matching, deltas: Mapping[str, LowRankDelta]) -> float:
    """The share of the adapter's sum of ||dW||^2 that lies on layers without a partner, or on channels that a narrower
    target lacks; 0 for an adapter of zeros."""
    return share_outside(matching.pairs, matching.channels, deltas)


def share_outside(
    pairs: Iterable[LayerPair], channels: Mapping[str, Channels], deltas: Mapping[str, LowRankDelta]
) -> float:
    """The same for any pairs: what of the sum of ||dW||^2 of these deltas, by source layer, none of them carries."""
    total, kept = 0.0, dict[str, float]()
    fed: dict[str, list[str]] = {}
    for pair in pairs:
        fed.setdefault(pair.source.name, []).append(pair.target.name)
    for name, delta in deltas.items():
        energy = delta.energy()
        total += energy
        for target in fed.get(name, []):
            part = channels[target].delta(delta).energy() if target in channels else energy
            kept[name] = max(kept.get(name, 0.0), part)
    return max(0.0, 1 - sum(kept.values()) / total) if total > 0 else 0.0


def _fits(layer: Layer, block: Block) -> bool:
    found = block.layers.get(layer.role)
    return found is not None and found.weight.shape == layer.weight.shape


def _why(source: str, target: str, measured: str) -> str:
    names = "same name" if source == target else f"{target} is fed by {source}"
    return f"{names}: {measured}"


def _why_not(layer: Layer, fed: list[Block], reason: str) -> str:
    if not fed:
        return f"no block of the target takes {layer.block or layer.name}: {reason}"
    found = fed[0].layers.get(layer.role)
    if found is None:
        return f"{fed[0].name}, which its block feeds, has no {layer.role}"
    return f"the shapes differ: {list(layer.weight.shape)} in the source, {list(found.weight.shape)} in {fed[0].name}"
