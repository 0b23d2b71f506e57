"""Where a training starts: the layers of an adapter that are trained, and the rest, which stays as it is."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ....core.delta import LowRankDelta
from ....core.errors import NothingToTransfer
from ....core.layers import Layer
from ....core.plan import TransferSettings
from ....core.refine.factors import balance_factors, make_zero_factors
from ....core.refine.parameterisation import Trainable, free_factors
from ..adapter.adapter import Adapter, LayerChanges
from ..adapter.apply import apply
from ..adapter.group import OF_TEXT_ENCODER
from ..adapter.read import AdapterOnBase, read_adapter
from ..adapter.strength import note_cut
from ..base.from_model import HostBase
from ..base.names import UNET, slice_of
from .bypass import ABSENT, explain_untrainable


@dataclass(frozen=True)
class StartingPoint:
    """adapter: where the run starts, None for a start from zeros; deltas: layer -> the trained delta, with balanced
    float32 factors; untrained: the changes that stay as they are; text_encoder: the adapter's tensors for a text
    encoder that is not connected, spelled as in its file."""

    adapter: Adapter | None
    deltas: Mapping[str, LowRankDelta]
    untrained: LayerChanges
    text_encoder: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    notes: tuple[str, ...] = ()

    @property
    def base(self) -> HostBase:
        """The base that names the adapter's layers."""
        return self.untrained.base

    def trainable(self) -> Trainable:
        return free_factors(self.deltas)

    def add_untrained(self, model: Any) -> Any:
        """The model with the untrained changes, except those of the text encoder."""
        layers = self.base.layers
        deltas = {name: delta for name, delta in self.untrained.deltas.items() if not layers[name].text_encoder}
        vectors = tuple(vector for vector in self.untrained.vectors if vector.parameter.startswith(UNET))
        if not deltas and not vectors:
            return model
        untrained = replace(self.untrained, deltas=deltas, vectors=vectors).adapter("the untrained layers", {})
        return apply(untrained, model, None, 1.0, 0.0).model

    def tensors(self, deltas: Mapping[str, LowRankDelta]) -> dict[str, Tensor]:
        """The whole adapter with these deltas as its trained part, under ComfyUI's own names."""
        every = {**self.untrained.deltas, **deltas}
        ordered = {name: every[name] for name in self.base.layers if name in every}
        return {**self.text_encoder, **replace(self.untrained, deltas=ordered).tensors()}


def start_from_adapter(adapter: Adapter, target: HostBase, model: Any, seed: int) -> StartingPoint:
    """Starts from an adapter's layers as trainable factors. NothingToTransfer if none of them can be trained."""
    base = adapter.fits or target
    placed = read_adapter(adapter, base)
    generator = torch.Generator().manual_seed(seed)
    reasons: dict[str, str] = {}
    deltas: dict[str, LowRankDelta] = {}
    untrained: dict[str, LowRankDelta] = {}
    lost: list[float] = []
    misfits: dict[str, str] = {}
    for name in placed.layers():
        reason = explain_untrainable(model.model, base.layers[name])
        if (misfit := _explain_misfit(reason, base.layers[name], target)) is not None:
            misfits[name] = misfit
            continue
        reason = "it widens its layer" if name in placed.widened() else reason
        delta = placed.deltas[name]
        if reason is None:
            deltas[name] = LowRankDelta(*balance_factors(_to_low_rank(name, delta, placed, lost), generator))
        else:
            untrained[name], reasons[name] = delta, reason
    if not deltas:
        layer, reason = next(iter({**misfits, **reasons}.items()), ("none", "it has no layers"))
        raise NothingToTransfer(
            f"Training {adapter.name} further: expected layers that can be trained, found none ({layer}: {reason}). "
            "Leave `transferred` empty to start from zeros."
        )
    return StartingPoint(
        adapter=adapter,
        deltas=deltas,
        untrained=LayerChanges(base, untrained, placed.scales, placed.vectors, placed.widened()),
        text_encoder=_find_text_encoder_tensors(adapter, placed),
        notes=(*note_cut(adapter.name, lost), *_explain_untrained(reasons, misfits, placed)),
    )


def start_from_zeros(
    adapter: Adapter, bases: tuple[HostBase, HostBase], model: Any, rank: int, seed: int
) -> StartingPoint:
    """Starts with new factors in the target's blocks, on layers of the kinds (linear, convolution) that the adapter
    changes in the source. bases: source and target; model: the loaded target."""
    source, target = bases
    generator = torch.Generator().manual_seed(seed)
    kinds = {_kind(source.layers[name]) for name in read_adapter(adapter, source).layers()}
    whole = [layer for name, layer in target.layers.items() if slice_of(name)[0] not in target.layers]
    deltas = {
        layer.name: LowRankDelta(*make_zero_factors(layer.weight.matrix_shape, rank, generator))
        for layer in find_trainable(whole, model, kinds)
    }
    if not deltas:
        raise NothingToTransfer(
            f"Refining on {target.name} from zeros: expected blocks with layers of the kind that {adapter.name} "
            f"changes ({', '.join(sorted(kinds))}), found none. Connect a transferred LoRA as `transferred`."
        )
    return StartingPoint(None, deltas, LayerChanges(target, {}, {}))


def find_trainable(layers: Iterable[Layer], model: Any, kinds: Collection[str]) -> list[Layer]:
    """Those of the layers that are in blocks, of these kinds (linear, convolution), and can be trained in the loaded
    model."""
    return [
        layer
        for layer in layers
        if layer.block and _kind(layer) in kinds and explain_untrainable(model.model, layer) is None
    ]


def _kind(layer: Layer) -> str:
    return "convolution" if math.prod(layer.weight.shape[2:]) > 1 else "linear"


def _to_low_rank(name: str, delta: LowRankDelta, placed: AdapterOnBase, lost: list[float]) -> LowRankDelta:
    """The delta, cut to a rank if it has no low-rank form; appends the share of energy that is lost to `lost`."""
    if name in placed.factored:
        return delta
    cut, share = delta.truncated(TransferSettings.dense_rank)
    lost.append(share)
    return cut


def _find_text_encoder_tensors(adapter: Adapter, placed: AdapterOnBase) -> dict[str, Tensor]:
    tensors = adapter.state_dict()
    return {key: tensors[key] for key, reason in placed.unread.items() if reason == OF_TEXT_ENCODER and key in tensors}


def _explain_misfit(untrainable: str | None, layer: Layer, target: HostBase) -> str | None:
    """Why a layer of the adapter does not fit the target, for which it may not be made; None if it fits."""
    if untrainable == ABSENT:
        return ABSENT
    own = target.layers.get(layer.name, layer).weight
    return None if own.matrix_shape == layer.weight.matrix_shape else "the target's layer has another shape"


def _explain_untrained(reasons: Mapping[str, str], misfits: Mapping[str, str], placed: AdapterOnBase) -> list[str]:
    """Notes on what is not refined, with the reasons."""
    notes = [f"{count} layers stay unchanged: {reason}" for reason, count in Counter(reasons.values()).items()]
    if placed.vectors:
        notes.append(f"{len(placed.vectors)} biases and norms stay unchanged")
    if count := sum(reason == OF_TEXT_ENCODER for reason in placed.unread.values()):
        notes.append(f"{count} tensors of the text encoder stay unchanged")
    lost = Counter(reason for reason in placed.unread.values() if reason != OF_TEXT_ENCODER)
    lost.update([*(skipped.reason for skipped in placed.skipped), *misfits.values()])
    return notes + [f"{count} of the LoRA's keys or layers are left out: {reason}" for reason, count in lost.items()]
