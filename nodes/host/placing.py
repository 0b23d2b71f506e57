"""An adapter on the layers of a base: ComfyUI's reader behind a table of spellings, and every key accounted for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.lora
from torch import Tensor

from ...core.delta import LowRankDelta
from ...core.errors import ShapeMismatch, UnsupportedAdapter
from ...core.layers import Skipped
from ...core.plan import Module, Vector
from .adapter import Adapter
from .base import HostBase
from .grouping import Group, grouped
from .kinds import LazyDeltas, PlacedDelta, peft_dora, placed_delta
from .names import layer_name, parse_target, row_order
from .spelling import peft_scale

_MAGNITUDE = ".lora_magnitude_vector"


@dataclass(frozen=True)
class PlacedAdapter:
    """An adapter on the layers of a base. Every key of the file is in a module, a vector, in `skipped` or in `unread`.

    deltas: layer -> delta, scale inside, float32. factored: those of them whose kind has factors. scales: layer ->
    alpha / rank. A change of a fused weight is split into its slices; its keys are counted with the first of them.
    """

    modules: tuple[Module, ...]
    deltas: Mapping[str, LowRankDelta]
    factored: Mapping[str, LowRankDelta]
    scales: Mapping[str, float]
    vectors: tuple[Vector, ...]
    skipped: tuple[Skipped, ...]
    unread: Mapping[str, str]

    def layers(self) -> list[str]:
        return [module.layer for module in self.modules]

    def widened(self) -> dict[str, tuple[int, ...]]:
        """The shapes to which modules pad their layers."""
        return {module.layer: module.widened for module in self.modules if module.widened is not None}


@dataclass(frozen=True)
class _Placed:
    """What one module of the file comes to."""

    deltas: Mapping[str, tuple[PlacedDelta, tuple[str, ...]]] = field(default_factory=dict[str, Any])
    vectors: tuple[Vector, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict[str, str])


def place(adapter: Adapter, base: HostBase) -> PlacedAdapter:
    """Put every module of the adapter on its layer of the base.

    UnsupportedAdapter when not a single key belongs to the base: it was made for another family.
    """
    groups, unread = grouped(adapter.state_dict(), base)
    if not groups:
        raise UnsupportedAdapter(
            f"LoRA {adapter.name}: expected a LoRA for {base.name} ({base.family}), found {len(unread)} keys of which "
            f"none names a layer of it (first: {next(iter(unread))}). Choose the base that it was trained on as the "
            "source."
        )
    deltas: dict[str, tuple[PlacedDelta, tuple[str, ...]]] = {}
    placed: list[_Placed] = []
    for spelled, group in groups.items():
        one = _place_module(spelled, group, adapter, base)
        if taken := [layer for layer in one.deltas if layer in deltas]:
            reason = "the file changes this layer under another name too; that one was taken"
            one = _Placed(skipped=(Skipped(taken[0], reason, group.keys()),))
        deltas |= one.deltas
        placed.append(one)
    order = [layer for layer in base.layers if layer in deltas]
    modules = [
        Module(layer, delta.shape, keys, delta.exact, delta.widened)
        for layer, (delta, keys) in ((layer, deltas[layer]) for layer in order)
    ]
    return PlacedAdapter(
        modules=tuple(modules),
        deltas=LazyDeltas({layer: deltas[layer][0] for layer in order}),
        factored=LazyDeltas({one.layer: deltas[one.layer][0] for one in modules if one.exact and one.widened is None}),
        scales={layer: deltas[layer][0].scale for layer in order},
        vectors=tuple(vector for one in placed for vector in one.vectors),
        skipped=tuple(skipped for one in placed for skipped in one.skipped),
        unread={key: reason for part in (unread, *(one.unread for one in placed)) for key, reason in part.items()},
    )


def _place_module(spelled: str, group: Group, adapter: Adapter, base: HostBase) -> _Placed:
    """One module: its matrix as a delta or as those of its slices, its bias and norm as vectors."""
    target = base.key_map[spelled]
    layer = layer_name(target)
    patches, read = _read_patches(spelled, group, target)
    refused = _refusal(patches, layer, base)
    if refused is not None:
        return _Placed(skipped=(Skipped(layer, refused, group.keys()),))
    matrix = patches.get(target) if layer in base.layers else None
    vectors, skipped = _vectors(patches, matrix, group, target, base)
    elsewhere = {key for one in (*vectors, *skipped) for key in one.keys}
    own = tuple(key for key in group.keys(read) if key not in elsewhere)
    left = set(group.keys()) - elsewhere - set(own)
    unread = dict.fromkeys(sorted(left), "the host reads no such key of a LoRA")
    if matrix is None:
        return _Placed(vectors=vectors, skipped=skipped, unread=unread)
    try:
        delta = _delta(matrix, spelled, group, layer, adapter, base)
    except ShapeMismatch as error:
        raise UnsupportedAdapter(
            f"LoRA {adapter.name}, module {spelled}: {error} The file is damaged: fetch it again."
        ) from error
    if (function := row_order(target)) is not None:
        delta = delta.arranged(function)
    parts = base.parts_of(layer) if delta.shape == base.layers[layer].weight.matrix_shape else []
    deltas = {layer: (delta, own)} if not parts else _split(delta, parts, own, base)
    return _Placed(deltas, vectors, skipped, unread)


def _read_patches(spelled: str, group: Group, target: Any) -> tuple[dict[Any, Any], set[str]]:
    """What the host makes of a module's tensors, and the keys that it read to do so."""
    patches = comfy.lora.load_lora(group.tensors, {spelled: target}, log_missing=False)
    read = {key for patch in patches.values() for key in getattr(patch, "loaded_keys", ())}
    tuples = [patch for patch in patches.values() if isinstance(patch, tuple)]
    values = {id(value) for patch in tuples for value in patch[1]}
    read |= {key for key, tensor in group.tensors.items() if id(tensor) in values}
    return patches, read | ({f"{spelled}{_MAGNITUDE}"} & group.tensors.keys())


def _refusal(patches: Mapping[Any, Any], layer: str, base: HostBase) -> str | None:
    """Why nothing of a module can be transferred, or None."""
    if not patches:
        return "the host finds no adapter in these keys"
    matrices = [patch for patch in patches.values() if not isinstance(patch, tuple)]
    if matrices and layer not in base.layers:
        return "the base's file does not hold this layer as a matrix of its own"
    return None


def _delta(patch: Any, spelled: str, group: Group, layer: str, adapter: Adapter, base: HostBase) -> PlacedDelta:
    place_of = base.layers[layer]

    def source_weight() -> Tensor:
        return base.read(place_of)

    def without_alpha(rank: int) -> float:
        return peft_scale(adapter.metadata, spelled, rank)

    magnitude = group.tensors.get(f"{spelled}{_MAGNITUDE}")
    if magnitude is None:
        return placed_delta(patch, without_alpha, place_of, source_weight)
    up, down, alpha, *_ = patch.weights
    scale = without_alpha(down.shape[0]) if alpha is None else alpha / down.shape[0]
    return peft_dora(up, down, magnitude, scale, place_of, source_weight)


def _split(
    delta: PlacedDelta, parts: list[str], keys: tuple[str, ...], base: HostBase
) -> dict[str, tuple[PlacedDelta, tuple[str, ...]]]:
    """A delta on a fused weight as deltas on its slices, which start where the last one ended."""
    split: dict[str, tuple[PlacedDelta, tuple[str, ...]]] = {}
    row = 0
    for part in parts:
        length = base.layers[part].weight.shape[0]
        split[part] = delta.rows(row, length), (keys if row == 0 else ())
        row += length
    return split


def _vectors(
    patches: Mapping[Any, Any], matrix: Any, group: Group, target: Any, base: HostBase
) -> tuple[tuple[Vector, ...], tuple[Skipped, ...]]:
    """The changes of biases and norms, and those that the base has no place for. On a slice, the host names the bias
    after the slice's tuple (a bug of 0.30): the bias of the fused weight is meant, with zeros on the other rows."""
    key, rows, _ = parse_target(target)
    vectors: list[Vector] = []
    skipped: list[Skipped] = []
    for name, patch in patches.items():
        if patch is matrix or not isinstance(patch, tuple):
            continue
        parameter = key if name == target else key.removesuffix(".weight") + ".bias"
        kind, (values, *_) = patch
        file_keys = tuple(group.file_keys[one] for one, tensor in group.tensors.items() if tensor is values)
        if values.ndim != 1 or parameter not in base.parameters:
            skipped.append(Skipped(parameter, "the base has no such bias or norm", file_keys))
            continue
        ordered = values if (function := row_order(target)) is None else function(values)
        vectors.append(Vector(parameter, kind, _on_whole(ordered, rows, base.parameters[parameter]), file_keys))
    return tuple(vectors), tuple(skipped)


def _on_whole(values: Tensor, rows: tuple[int, int] | None, shape: tuple[int, ...]) -> Tensor:
    """A slice's values on the whole parameter, zeros elsewhere."""
    if rows is None:
        return values
    whole = values.new_zeros(shape)
    whole[rows[0] : sum(rows)] = values
    return whole
