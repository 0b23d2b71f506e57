"""An adapter on the layers of a base: ComfyUI's reader behind a table of spellings, and every key accounted for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ....core.delta import LowRankDelta
from ....core.errors import ShapeMismatch, UnsupportedAdapter
from ....core.layers import Rows, Skipped
from ....core.plan import Module
from ....core.vectors import Vector
from ..base.from_model import HostBase
from ..base.names import layer_name, row_order, to_file_order
from .adapter import Adapter
from .group import MAGNITUDE, Group, explain_no_match, group_by_module
from .kinds import LazyDelta, LazyDeltas, delta_of_patch, peft_dora
from .module import read_module
from .peft import PeftSettings, peft_settings
from .scale import apply_scale, check_norms, check_settings
from .vectors import sum_vectors, vectors_of_module

# How reasons begin that another base, or a whole file, would take away.
_OF_DAMAGE = ("expected its ", "its diff has shape", "its set has shape", "it is incomplete")

# All exact factors of an adapter are in memory at once: 4 GB in float32, and as much again while they are saved.
_MOST_VALUES = 1 << 30
_GROWN = 4  # times what the file holds: a LoRA's own factors never are, those of a LoKr or LoHa can be a thousand times

_PlacedDeltas = dict[str, tuple[LazyDelta, tuple[str, ...]]]


@dataclass(frozen=True)
class AdapterOnBase:
    """An adapter on the layers of a base. Every key of the file is in a module, a vector, in `skipped` or in `unread`.

    deltas: layer -> delta, scale inside, float32. factored: those of them whose kind has factors. scales: layer ->
    alpha / rank. A change of a fused weight is split into its slices; its keys are counted with the first of them.
    notes: what a reader of the report should know.
    """

    modules: tuple[Module, ...]
    deltas: Mapping[str, LowRankDelta]
    factored: Mapping[str, LowRankDelta]
    scales: Mapping[str, float]
    vectors: tuple[Vector, ...]
    skipped: tuple[Skipped, ...]
    unread: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def layers(self) -> list[str]:
        return [module.layer for module in self.modules]

    def widened(self) -> dict[str, tuple[int, ...]]:
        """The shapes to which modules pad their layers."""
        return {module.layer: module.widened for module in self.modules if module.widened is not None}


@dataclass(frozen=True)
class _Placed:
    """What one module of the file comes to."""

    deltas: Mapping[str, tuple[LazyDelta, tuple[str, ...]]] = field(default_factory=dict[str, Any])
    vectors: tuple[tuple[Vector, Rows | None], ...] = ()
    skipped: tuple[Skipped, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict[str, str])


def read_adapter(adapter: Adapter, base: HostBase) -> AdapterOnBase:
    """Put every module of the adapter on its layer of the base. A module that does not fit is a `Skipped`.

    UnsupportedAdapter when nothing of the adapter fits the base, with the reason of the first.
    """
    groups, unread = group_by_module(adapter.state_dict(), base)
    if not groups:
        raise UnsupportedAdapter(explain_no_match(adapter.name, base, unread))
    settings = peft_settings(adapter.metadata, adapter.name)
    placed: list[_Placed] = []
    for spelled, group in groups.items():
        try:
            placed.append(_place_module(spelled, group, settings, base))
        except (UnsupportedAdapter, ShapeMismatch) as error:
            skipped = Skipped(layer_name(base.key_map[spelled]), str(error), group.keys())
            placed.append(_Placed(skipped=(skipped,)))
    deltas, doubled = _sum_deltas(zip(groups, placed, strict=True), base)
    deltas, notes = _bound_size(deltas)
    vectors, doubled_vectors = sum_vectors(vector for one in placed for vector in one.vectors)
    skipped = (*(skipped for one in placed for skipped in one.skipped), *doubled, *doubled_vectors)
    if not deltas and not vectors:
        raise UnsupportedAdapter(_explain_no_fit(adapter.name, base, skipped))
    order = [layer for layer in base.layers if layer in deltas]
    modules = [
        Module(layer, delta.shape, keys, delta.exact, delta.widened)
        for layer, (delta, keys) in ((layer, deltas[layer]) for layer in order)
    ]
    return AdapterOnBase(
        modules=tuple(modules),
        deltas=LazyDeltas({layer: deltas[layer][0] for layer in order}),
        factored=LazyDeltas({one.layer: deltas[one.layer][0] for one in modules if one.exact and one.widened is None}),
        scales={layer: deltas[layer][0].scale for layer in order},
        vectors=vectors,
        skipped=skipped,
        unread={key: reason for part in (unread, *(one.unread for one in placed)) for key, reason in part.items()},
        notes=notes,
    )


def _explain_no_fit(adapter: str, base: HostBase, skipped: tuple[Skipped, ...]) -> str:
    """The sentence for an adapter of which no module can be taken. Only shapes and missing keys hint at damage."""
    first = skipped[0]
    sentence = (
        f"LoRA {adapter}: expected modules that fit {base.name}, found {len(skipped)} of which none does. The first, "
        f"{first.layer}: {first.reason}."
    )
    if not first.reason.startswith(_OF_DAMAGE):
        return sentence
    return f"{sentence} If the base is the one that it was trained on, the file is damaged: fetch it again."


def _sum_deltas(placed: Iterable[tuple[str, _Placed]], base: HostBase) -> tuple[_PlacedDeltas, tuple[Skipped, ...]]:
    """One delta for each layer. As in ComfyUI, a change of a fused weight and one of its slice add up, and of two
    names for the same weight one counts."""
    deltas: _PlacedDeltas = {}
    targets: dict[Any, str] = {}
    skipped: list[Skipped] = []
    for spelled, one in placed:
        target = base.key_map[spelled]
        if one.deltas and targets.setdefault(target, spelled) != spelled:
            reason = "the file changes this layer under another name too; that one was taken"
            keys = tuple(key for _, keys in one.deltas.values() for key in keys)
            skipped.append(Skipped(next(iter(one.deltas)), reason, keys))
            continue
        for layer, (delta, keys) in one.deltas.items():
            before = deltas.get(layer)
            deltas[layer] = (delta, keys) if before is None else (before[0].plus(delta), (*before[1], *keys))
    return deltas, tuple(skipped)


def _bound_size(deltas: _PlacedDeltas) -> tuple[_PlacedDeltas, tuple[str, ...]]:
    """The deltas, those whose exact factors are far larger than the file's as such without a low-rank form where all of
    them together would take the memory of a base; a note says so."""
    total = sum(delta.values for delta, _ in deltas.values())
    grown = [layer for layer, (delta, _) in deltas.items() if delta.values > _GROWN * delta.stored]
    if total <= _MOST_VALUES or not grown:
        return deltas, ()
    note = (
        f"its exact factors would take {total * 4 / 1e9:.0f} GB, for {len(grown)} of its layers are products of small "
        "matrices: these are cut to dense_rank, and the report tells what each of them loses"
    )
    return deltas | {layer: (replace(deltas[layer][0], exact=False), deltas[layer][1]) for layer in grown}, (note,)


def _place_module(spelled: str, group: Group, settings: PeftSettings, base: HostBase) -> _Placed:
    """One module: its matrix as a delta or as those of its slices, its bias and norm as vectors. UnsupportedAdapter and
    ShapeMismatch give the reason where nothing of it can be transferred."""
    target = base.key_map[spelled]
    layer = layer_name(target)
    module = read_module(spelled, group, target)
    if layer not in base.layers and any(not isinstance(patch, tuple) for patch in module.patches.values()):
        raise UnsupportedAdapter("the base's file does not hold this layer as a matrix of its own")
    matrix = module.patches.get(target) if layer in base.layers else None
    vectors, skipped = vectors_of_module(module.patches, matrix, group, target, base)
    elsewhere = {key for one in (*(vector for vector, _ in vectors), *skipped) for key in one.keys}
    own = tuple(key for key in group.keys(module.read) if key not in elsewhere)
    unread = {group.file_keys[key]: reason for key, reason in module.unread.items() if group.file_keys[key]}
    if matrix is None:
        return _Placed(vectors=vectors, skipped=skipped, unread=unread)
    delta = _delta(matrix, spelled, group, layer, settings, base)
    if (to_model_order := row_order(target)) is not None:
        delta = delta.arranged(to_model_order)
    parts = base.parts_of(layer) if delta.shape == base.layers[layer].weight.matrix_shape else []
    deltas = {layer: (delta, own)} if not parts else _split(delta, parts, own, base)
    return _Placed(deltas, vectors, skipped, unread)


def _delta(patch: Any, spelled: str, group: Group, layer: str, settings: PeftSettings, base: HostBase) -> LazyDelta:
    """The module's delta with its rows in the order of the file. A change that depends on the weight is only right
    with the weight's rows in that order too."""
    place_of = base.layers[layer]

    def source_weight() -> Tensor:
        return to_file_order(base.key_map[spelled], base.read(place_of))

    module, magnitude = group.module, group.tensors.get(f"{spelled}{MAGNITUDE}")
    check_settings(patch, magnitude, module, settings)
    patch = apply_scale(patch, module, settings)
    placed = delta_of_patch(patch, place_of, source_weight)
    if magnitude is None or not isinstance(patch, LoRAAdapter):
        return placed
    check_norms(magnitude, group.file_keys[f"{spelled}{MAGNITUDE}"], place_of)
    up, down, *_ = patch.weights
    return peft_dora(up, down, magnitude, placed.scale, place_of, source_weight)


def _split(
    delta: LazyDelta, parts: list[str], keys: tuple[str, ...], base: HostBase
) -> dict[str, tuple[LazyDelta, tuple[str, ...]]]:
    """A delta on a fused weight as deltas on its slices, which start where the last one ended."""
    split: dict[str, tuple[LazyDelta, tuple[str, ...]]] = {}
    start = 0
    for part in parts:
        rows = Rows(start, start + base.layers[part].weight.shape[0])
        split[part] = delta.rows(rows), (keys if start == 0 else ())
        start = rows.stop
    return split
