"""Turns a block map into pairs of layers, and measures what a target without some blocks or channels loses."""

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
    """Pair each requested source layer with the layer of the same role in every target block that its block feeds.

    A source layer may be in several pairs (a grown model). A layer without a pair is in `unpaired` with the reason.
    """
    target_blocks = {block.name: block for block in blocks_of(target.values())}
    matches = {match.target: match for match in block_map.matches if match.source is not None}
    unused = {block.source: block.why for block in block_map.unused_blocks}
    pairs: list[LayerPair] = []
    skipped: list[Skipped] = []
    for name in wanted:
        if name not in source:
            skipped.append(Skipped(name, "the source base has no such layer"))
            continue
        layer = source[name]
        block = layer.block or layer.name
        candidates = [target_blocks[target_name] for target_name in block_map.targets_of(block)]
        partners = [candidate.layers[layer.role] for candidate in candidates if _fits(layer, candidate)]
        for partner in partners:
            target_block = partner.block or partner.name
            pairs.append(LayerPair(layer, partner, _why(block, target_block, matches[target_block].why)))
        if not partners:
            reason = unused.get(block, "the block map does not use its block")
            skipped.append(Skipped(name, _why_not(layer, candidates, reason)))
    return Matching(tuple(pairs), tuple(skipped))


def share_lost(matching: Matching, deltas: Mapping[str, LowRankDelta]) -> float:
    """The share of the adapter's sum of ||dW||^2 on layers without a partner, or on channels that a narrower target
    lacks; 0 for an adapter of zeros."""
    return share_outside(matching.pairs, matching.channels, deltas)


def share_outside(
    pairs: Iterable[LayerPair], channels: Mapping[str, Channels], deltas: Mapping[str, LowRankDelta]
) -> float:
    """The share of the sum of ||dW||^2 of these deltas (by source layer) that none of the pairs transfers."""
    total, transferred = 0.0, dict[str, float]()
    targets_of: dict[str, list[str]] = {}
    for pair in pairs:
        targets_of.setdefault(pair.source.name, []).append(pair.target.name)
    for name, delta in deltas.items():
        energy = delta.energy()
        total += energy
        for target in targets_of.get(name, []):
            part = channels[target].delta(delta).energy() if target in channels else energy
            transferred[name] = max(transferred.get(name, 0.0), part)
    return max(0.0, 1 - sum(transferred.values()) / total) if total > 0 else 0.0


def _fits(layer: Layer, block: Block) -> bool:
    partner = block.layers.get(layer.role)
    return partner is not None and partner.weight.shape == layer.weight.shape


def _why(source: str, target: str, measured: str) -> str:
    names = "same name" if source == target else f"{target} is fed by {source}"
    return f"{names}: {measured}"


def _why_not(layer: Layer, candidates: list[Block], reason: str) -> str:
    if not candidates:
        return f"{layer.block or layer.name} feeds no block of the target: {reason}"
    first = candidates[0]
    partner = first.layers.get(layer.role)
    if partner is None:
        return f"its block feeds {first.name}, which has no {layer.role}"
    return f"the shapes differ: {list(layer.weight.shape)} in the source, {list(partner.weight.shape)} in {first.name}"
