"""Reads an adapter onto the layers of a base: every module becomes a delta, vectors or a `Skipped`, and every key of
the file is accounted for."""

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
from .tlora import NOTE, has_tlora
from .vectors import sum_vectors, vectors_of_module

# How reasons begin that can mean a wrong base or a damaged file.
_OF_DAMAGE = ("expected its ", "its diff has shape", "its set has shape", "it is incomplete")

# All exact factors of an adapter are in memory at once: 4 GB in float32, and as much again while they are saved.
_MOST_VALUES = 1 << 30
_GROWN = 4  # times the values in the file: a LoRA's factors never grow, those of a LoKr or LoHa can a thousand times

_Deltas = dict[str, tuple[LazyDelta, tuple[str, ...]]]  # layer -> (delta, the file's keys of it)


@dataclass(frozen=True)
class AdapterOnBase:
    """An adapter on the layers of a base. Every key of the file is in a module, a vector, in `skipped` or in `unread`.

    deltas: layer -> delta with its scale, float32. factored: the deltas whose kind has factors. scales: layer ->
    alpha / rank. A change of a fused weight is split into its slices; the first slice gets its keys. notes: what a
    reader of the report should know.
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
class _ModuleChanges:
    """The changes of one module of the file."""

    deltas: Mapping[str, tuple[LazyDelta, tuple[str, ...]]] = field(default_factory=dict[str, Any])
    vectors: tuple[tuple[Vector, Rows | None], ...] = ()
    skipped: tuple[Skipped, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict[str, str])


def read_adapter(adapter: Adapter, base: HostBase) -> AdapterOnBase:
    """Read every module of the adapter onto its layer of the base. A module that does not fit is a `Skipped`.

    UnsupportedAdapter if nothing of the adapter fits the base, with the reason of the first module.
    """
    groups, unread = group_by_module(adapter.state_dict(), base)
    if not groups:
        raise UnsupportedAdapter(explain_no_match(adapter.name, base, unread))
    settings = peft_settings(adapter.metadata, adapter.name)
    changes: list[_ModuleChanges] = []
    for spelled, group in groups.items():
        try:
            changes.append(_read_changes(spelled, group, settings, base))
        except (UnsupportedAdapter, ShapeMismatch) as error:
            skipped = Skipped(layer_name(base.key_map[spelled]), str(error), group.keys())
            changes.append(_ModuleChanges(skipped=(skipped,)))
    deltas, doubled = _sum_deltas(zip(groups, changes, strict=True), base)
    deltas, notes = _bound_size(deltas)
    vectors, doubled_vectors = sum_vectors(vector for module in changes for vector in module.vectors)
    skipped = (*(skipped for module in changes for skipped in module.skipped), *doubled, *doubled_vectors)
    if not deltas and not vectors:
        raise UnsupportedAdapter(_explain_no_fit(adapter.name, base, skipped))
    order = [layer for layer in base.layers if layer in deltas]
    modules = [
        Module(layer, delta.shape, keys, delta.exact, delta.widened)
        for layer, (delta, keys) in ((layer, deltas[layer]) for layer in order)
    ]
    notes += (NOTE,) if any(has_tlora(module.keys) for module in modules) else ()
    factored = [module.layer for module in modules if module.exact and module.widened is None]
    return AdapterOnBase(
        modules=tuple(modules),
        deltas=LazyDeltas({layer: deltas[layer][0] for layer in order}),
        factored=LazyDeltas({layer: deltas[layer][0] for layer in factored}),
        scales={layer: deltas[layer][0].scale for layer in order},
        vectors=vectors,
        skipped=skipped,
        unread={key: why for part in (unread, *(module.unread for module in changes)) for key, why in part.items()},
        notes=notes,
    )


def _explain_no_fit(adapter: str, base: HostBase, skipped: tuple[Skipped, ...]) -> str:
    """The error for an adapter without any module that fits. Only shapes and missing keys hint at damage."""
    first = skipped[0]
    sentence = (
        f"LoRA {adapter}: expected modules that fit {base.name}, found {len(skipped)} of which none does. The first, "
        f"{first.layer}: {first.reason}."
    )
    if not first.reason.startswith(_OF_DAMAGE):
        return sentence
    return f"{sentence} If it was trained on this base, the file is damaged: download it again."


def _sum_deltas(changes: Iterable[tuple[str, _ModuleChanges]], base: HostBase) -> tuple[_Deltas, tuple[Skipped, ...]]:
    """One delta for each layer. As in ComfyUI, changes of a fused weight and of its slice add up; if the file changes a
    weight under two names, only the first counts."""
    deltas: _Deltas = {}
    targets: dict[Any, str] = {}
    skipped: list[Skipped] = []
    for spelled, module in changes:
        target = base.key_map[spelled]
        if module.deltas and targets.setdefault(target, spelled) != spelled:
            reason = "the file changes this layer under another name too; that change was used"
            keys = tuple(key for _, keys in module.deltas.values() for key in keys)
            skipped.append(Skipped(next(iter(module.deltas)), reason, keys))
            continue
        for layer, (delta, keys) in module.deltas.items():
            before = deltas.get(layer)
            deltas[layer] = (delta, keys) if before is None else (before[0].plus(delta), (*before[1], *keys))
    return deltas, tuple(skipped)


def _bound_size(deltas: _Deltas) -> tuple[_Deltas, tuple[str, ...]]:
    """The deltas, and a note if their exact factors together would be as large as a base. Then those that are far
    larger than in the file count as deltas without a low-rank form, which are cut."""
    total = sum(delta.values for delta, _ in deltas.values())
    grown = [layer for layer, (delta, _) in deltas.items() if delta.values > _GROWN * delta.stored]
    if total <= _MOST_VALUES or not grown:
        return deltas, ()
    note = (
        f"its exact factors would take {total * 4 / 1e9:.0f} GB, because {len(grown)} of its layers are products of "
        "small matrices: these are cut to dense_rank, and the report says what each of them loses"
    )
    return deltas | {layer: (replace(deltas[layer][0], exact=False), deltas[layer][1]) for layer in grown}, (note,)


def _read_changes(spelled: str, group: Group, settings: PeftSettings, base: HostBase) -> _ModuleChanges:
    """The changes of one module: its matrix as a delta, or as the deltas of its slices; its bias and norm as vectors.
    UnsupportedAdapter or ShapeMismatch gives the reason if nothing of it can be transferred."""
    target = base.key_map[spelled]
    layer = layer_name(target)
    module = read_module(spelled, group, target)
    if layer not in base.layers and any(not isinstance(patch, tuple) for patch in module.patches.values()):
        raise UnsupportedAdapter("the base's file does not have this layer as a matrix of its own")
    matrix = module.patches.get(target) if layer in base.layers else None
    vectors, skipped = vectors_of_module(module.patches, matrix, group, target, base)
    elsewhere = {key for part in (*(vector for vector, _ in vectors), *skipped) for key in part.keys}
    own = tuple(key for key in group.keys(module.read) if key not in elsewhere)
    unread = {group.file_keys[key]: reason for key, reason in module.unread.items() if group.file_keys[key]}
    if matrix is None:
        return _ModuleChanges(vectors=vectors, skipped=skipped, unread=unread)
    delta = _delta(matrix, spelled, group, layer, settings, base)
    if (to_model_order := row_order(target)) is not None:
        delta = delta.arranged(to_model_order)
    parts = base.parts_of(layer) if delta.shape == base.layers[layer].weight.matrix_shape else []
    deltas = {layer: (delta, own)} if not parts else _split(delta, parts, own, base)
    return _ModuleChanges(deltas, vectors, skipped, unread)


def _delta(patch: Any, spelled: str, group: Group, layer: str, settings: PeftSettings, base: HostBase) -> LazyDelta:
    """The module's delta with its rows in the order of the file. A change that depends on the weight needs the weight's
    rows in that order too."""
    target_layer = base.layers[layer]

    def source_weight() -> Tensor:
        return to_file_order(base.key_map[spelled], base.read(target_layer))

    module, magnitude = group.module, group.tensors.get(f"{spelled}{MAGNITUDE}")
    check_settings(patch, magnitude, module, settings)
    patch = apply_scale(patch, module, settings)
    placed = delta_of_patch(patch, target_layer, source_weight)
    if magnitude is None or not isinstance(patch, LoRAAdapter):
        return placed
    check_norms(magnitude, group.file_keys[f"{spelled}{MAGNITUDE}"], target_layer)
    up, down, *_ = patch.weights
    return peft_dora(up, down, magnitude, placed.scale, target_layer, source_weight)


def _split(
    delta: LazyDelta, parts: list[str], keys: tuple[str, ...], base: HostBase
) -> dict[str, tuple[LazyDelta, tuple[str, ...]]]:
    """A delta on a fused weight as deltas on its slices, which follow each other without gaps."""
    split: dict[str, tuple[LazyDelta, tuple[str, ...]]] = {}
    start = 0
    for part in parts:
        rows = Rows(start, start + base.layers[part].weight.shape[0])
        split[part] = delta.rows(rows), (keys if start == 0 else ())
        start = rows.stop
    return split
