"""Transfers a LoRA whose source base is not on this disk: by a published map of blocks, or by names."""

import time
from collections.abc import Iterator
from dataclasses import replace

from ...core.drift import WeightFigures
from ...core.errors import NothingToTransfer, UnsupportedAdapter
from ...core.layers import LayerPair, Skipped
from ...core.matching import BlockMap, block_map_by_name, blocks_of, match_by_blocks
from ...core.matching.known_maps import KNOWN_MAPS, KnownMap, known_maps_to
from ...core.methods.copy import COPY
from ...core.plan import Module, PlannedPair, TransferPlan, TransferSettings
from ...core.reports.envelope import Identity
from ...core.reports.transfer import transfer_report
from ...core.resources import Resources
from ...core.similarity import Comparison, LayerSimilarity
from ...core.subspace import RankRule
from ...core.transfer import transfer
from ...core.vectors import plan_vectors
from .adapter.adapter import Adapter, LayerChanges, transferred_adapter
from .adapter.read import AdapterOnBase, read_adapter
from .adapter.save import note_growth
from .adapter.tlora import has_tlora
from .base.from_model import HostBase
from .base.stand_in import stand_in_for_source
from .project import ProjectResult, share_unread

_UNCHECKED = "the source base is not on this disk: whether this LoRA suits the target could not be checked"
_BY_NAMES = "layers of the same name and shape were copied"
_REPLACES = (
    "it replaces the layer's weight, and without the source base its change cannot be told from the source's own weight"
)
_OF_SOURCE = "it is a T-LoRA: its change is counted from the source's own weight, and the source base is missing"
_OF_TARGET = "computed from the target's weight, as ComfyUI does when it loads the LoRA on the target"

_FIND_SOURCE = "Find the base that it was trained on, put it on this disk, and choose it in trained_on."

_NOT_MEASURED = LayerSimilarity(WeightFigures(None, None, (0.0, 0.0)))
_NO_RULE = RankRule("fraction", 0.5)  # a comparison has one; nothing is decomposed here


def transfer_without_source(
    adapter: Adapter, target: HostBase, settings: TransferSettings, using: Resources
) -> ProjectResult:
    """Copy the LoRA to the target: by a known map if one fits the LoRA's blocks and the target's, else by names.

    Of the settings only gain, out_rank, dense_rank and dense_energy count. The result's notes say that nothing could be
    checked. UnsupportedAdapter or NothingToTransfer if nothing of the LoRA fits the target.
    """
    started = time.monotonic()
    known, why = choose_known_map(adapter, target)
    source = stand_in_for_source(target, known)
    placed = read_adapter(adapter, replace(source, name=target.name))  # errors should name a base that the user has
    comparison = _pair_layers(source, target, placed, known)
    plan = _plan_copies(comparison, placed, settings, adapter.fingerprint)
    vectors, skipped = plan_vectors(placed.vectors, target.parameters, target.name, comparison.block_map)
    if not plan.pairs and not vectors:
        raise NothingToTransfer(plan.why_nothing(source.name, target.name, _FIND_SOURCE))
    transferred = transfer(comparison, plan, placed.deltas, using)
    scales, widened = plan.by_target(placed.scales), plan.by_target(placed.widened())
    changes = LayerChanges(target, transferred.deltas, scales, vectors, widened)
    notes = (_UNCHECKED, why, *_note_kinds(plan), *placed.notes, *note_growth(adapter, changes))
    report = transfer_report(
        comparison,
        plan,
        transferred.layers,
        Identity.of(adapter),
        vectors=vectors,
        skipped=(*placed.skipped, *skipped),
        unread=placed.unread,
        notes=(*transferred.notes, *notes),
        lost=plan.share_lost(placed.factored, {}) if placed.factored else None,
        unread_share=share_unread(placed),
        seconds=time.monotonic() - started,
    )
    return ProjectResult(_mark(transferred_adapter(adapter, changes, report), known), report, notes)


def choose_known_map(adapter: Adapter, target: HostBase) -> tuple[KnownMap | None, str]:
    """(the published map by which a LoRA has to be transferred to this target, or None; the reason as a sentence)."""
    for known in known_maps_to(target.family, _blocks(target)):
        if (entry := _find_entry(adapter)) is not None:
            return None, f"its entry {entry} says that it was converted already: {_BY_NAMES}"
        entry, depth = known.depth_entry, adapter.metadata.get(known.depth_entry or "")
        if depth == str(known.depth):
            return known, f"{_explain_map(known, known.depth - 1)}: its entry {entry} says {depth} blocks"
        if depth == str(len(known.sources)):
            return None, f"its entry {entry} says that it was trained on {depth} blocks: {_BY_NAMES}"
        highest = _highest_block(adapter, target, known)
        if known.fits_adapter(highest):
            return known, _explain_map(known, highest)
    return None, f"no published map of blocks fits this LoRA and the target: {_BY_NAMES}"


def _explain_map(known: KnownMap, highest: int | None) -> str:
    sentence = f"transferred by the published map of {known.source} to {known.target} ({known.origin})"
    if not known.grows or highest == known.depth - 1:
        return sentence
    return (
        f"{sentence}, because it changes no block above {known.stack}.{highest}; if it was trained on {known.target}, "
        "load it as it is"
    )


def _find_entry(adapter: Adapter) -> str | None:
    """The metadata entry that marks a LoRA as converted by a known map."""
    entries = [known.entry[0] for known in KNOWN_MAPS if known.entry is not None]
    return next((entry for entry in entries if entry in adapter.metadata), None)


def _highest_block(adapter: Adapter, target: HostBase, known: KnownMap) -> int | None:
    """The highest number of a block that the LoRA changes; None if it changes none of the stack. It is read on the
    deeper of the two models, which has a layer for each of its keys."""
    deeper = target if known.grows else stand_in_for_source(target, known)
    try:
        placed = read_adapter(adapter, deeper)
    except UnsupportedAdapter:
        return None
    layers = (*placed.layers(), *(skipped.layer for skipped in placed.skipped))
    return max((number for layer in layers if (number := known.number_of(layer)) is not None), default=None)


def _blocks(base: HostBase) -> list[str]:
    return [block.name for block in blocks_of(base.layers.values())]


def _pair_layers(
    source: HostBase, target: HostBase, placed: AdapterOnBase, known: KnownMap | None
) -> Comparison[HostBase]:
    """The layers of the source and the target in pairs, without any figure."""
    block_map: BlockMap
    if known is None:
        block_map = block_map_by_name(_blocks(source), _blocks(target))
    else:
        block_map = known.block_map(_blocks(target))
    matching = match_by_blocks(source.layers, target.layers, block_map, placed.layers())
    return Comparison(
        source,
        target,
        {pair.target.name: (pair, _NOT_MEASURED) for pair in matching.pairs},
        {skipped.layer: skipped for skipped in matching.unpaired},
        _NO_RULE,
        "weight_cosine",
        block_map=block_map,
    )


def _plan_copies(
    comparison: Comparison[HostBase], placed: AdapterOnBase, settings: TransferSettings, adapter: str
) -> TransferPlan:
    """Copy every module whose layer has a partner; skip the others with the reason."""
    copies: list[PlannedPair] = []
    skipped: list[Skipped] = []
    pairs: dict[str, list[LayerPair]] = {}
    for pair, _ in comparison.layers.values():
        pairs.setdefault(pair.source.name, []).append(pair)
    for module in placed.modules:
        if any(key.endswith(".set_weight") for key in module.keys):
            skipped.append(Skipped(module.layer, _REPLACES, module.keys))
        elif has_tlora(module.keys):
            skipped.append(Skipped(module.layer, _OF_SOURCE, module.keys))
        elif module.layer not in pairs:
            skipped.append(Skipped(module.layer, comparison.unpaired[module.layer].reason, module.keys))
        else:
            copies += _copies_of(module, pairs[module.layer])
    settings = replace(settings, method=COPY.name)
    return TransferPlan(tuple(copies), tuple(skipped), COPY, comparison.rank_rule, settings, (), adapter)


def _copies_of(module: Module, pairs: list[LayerPair]) -> Iterator[PlannedPair]:
    """The copies of a module; only the first has its keys, so that the report counts them once."""
    for index, pair in enumerate(pairs):
        own = module if index == 0 else replace(module, keys=())
        reason = f"copied unchecked: {pair.why}" if module.exact else f"copied unchecked, {_OF_TARGET}: {pair.why}"
        yield PlannedPair(pair, _NOT_MEASURED, "copy", reason, own)


def _note_kinds(plan: TransferPlan) -> tuple[str, ...]:
    """A note if the LoRA has layers whose change has no low-rank form."""
    count = sum(not planned.module.exact for planned in plan.pairs)
    if not count:
        return ()
    return (
        f"the change of {count} layers depends on the base's weight or has full rank (DoRA, OFT, GLoRA, full "
        f"differences): it was {_OF_TARGET}, and cut to rank {plan.settings.dense_rank}",
    )


def _mark(adapter: Adapter, known: KnownMap | None) -> Adapter:
    """The transferred LoRA with the metadata entry that keeps others from converting it again."""
    if known is None or known.entry is None:
        return adapter
    return replace(adapter, metadata={**adapter.metadata, known.entry[0]: known.entry[1]})
