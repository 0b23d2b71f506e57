"""Where a refinement starts: the layers of an adapter that are trained, and what stays unchanged beside them."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ....core.delta import LowRankDelta
from ....core.errors import NothingToTransfer
from ....core.layers import Layer
from ....core.plan import TransferSettings
from ....core.refine.trainable import balance_factors, make_zero_factors
from ....core.vectors import Vector
from ..adapter.adapter import Adapter, fingerprint_of
from ..adapter.apply import apply
from ..adapter.group import OF_TEXT_ENCODER
from ..adapter.read import AdapterOnBase, read_adapter
from ..adapter.strength import note_cut
from ..adapter.write import to_state_dict
from ..base.from_model import HostBase
from ..base.names import UNET, slice_of
from .bypass import ABSENT, explain_untrainable


@dataclass(frozen=True)
class StartingPoint:
    """adapter: None from zeros; fits: the base that names its layers; deltas: layer -> what is trained, balanced,
    float32; untrained: layer -> what stays as it is; vectors: biases and norms; text_encoder: its tensors, spelled as
    the file spells them."""

    adapter: Adapter | None
    fits: HostBase
    deltas: Mapping[str, LowRankDelta]
    untrained: Mapping[str, LowRankDelta] = field(default_factory=dict[str, LowRankDelta])
    vectors: tuple[Vector, ...] = ()
    scales: Mapping[str, float] = field(default_factory=dict[str, float])
    widened: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, Any])
    text_encoder: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    notes: tuple[str, ...] = ()

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {name: (delta.up, delta.down) for name, delta in self.deltas.items()}

    def add_untrained(self, model: Any) -> Any:
        """The model with the layers that are not trained; the text encoder's are left out."""
        layers = {name: delta for name, delta in self.untrained.items() if not self.fits.layers[name].text_encoder}
        vectors = [one for one in self.vectors if one.parameter.startswith(UNET)]
        if not layers and not vectors:
            return model
        tensors = to_state_dict(layers, self.scales, self.fits, vectors=vectors, widened=self.widened)
        kept = Adapter("what is not refined", fingerprint_of(tensors), {}, tensors=tensors, fits=self.fits)
        return apply(kept, model, None, 1.0, 0.0).model

    def tensors(self, deltas: Mapping[str, LowRankDelta]) -> dict[str, Tensor]:
        """The whole adapter with these deltas as its trained part, under ComfyUI's own names."""
        layers = {**self.untrained, **deltas}
        ordered = {name: layers[name] for name in self.fits.layers if name in layers}
        written = to_state_dict(ordered, self.scales, self.fits, vectors=self.vectors, widened=self.widened)
        return {**self.text_encoder, **written}


def start_from_adapter(adapter: Adapter, target: HostBase, model: Any, seed: int) -> StartingPoint:
    """The layers of a transferred adapter as trainable factors. NothingToTransfer where none of them can be trained."""
    fits = adapter.fits or target
    placed = read_adapter(adapter, fits)
    generator = torch.Generator().manual_seed(seed)
    reasons: dict[str, str] = {}
    deltas: dict[str, LowRankDelta] = {}
    untrained: dict[str, LowRankDelta] = {}
    lost: list[float] = []
    misfits: dict[str, str] = {}
    for name in placed.layers():
        reason = explain_untrainable(model.model, fits.layers[name])
        if (misfit := _explain_misfit(reason, fits.layers[name], target)) is not None:
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
            f"Refining {adapter.name}: expected layers that can be trained, found none ({layer}: {reason}). Leave "
            "`transferred` empty to start from zeros."
        )
    return StartingPoint(
        adapter=adapter,
        fits=fits,
        deltas=deltas,
        untrained=untrained,
        vectors=placed.vectors,
        scales=placed.scales,
        widened=placed.widened(),
        text_encoder=_find_text_encoder_tensors(adapter, placed),
        notes=(*note_cut(adapter.name, lost), *_explain_untrained(reasons, misfits, placed)),
    )


def start_from_zeros(
    adapter: Adapter, bases: tuple[HostBase, HostBase], model: Any, rank: int, seed: int
) -> StartingPoint:
    """New factors on the target's blocks, on layers of the kinds (linear, convolution) that the adapter changes in the
    source. bases: source and target; model: the loaded target."""
    source, target = bases
    generator = torch.Generator().manual_seed(seed)
    kinds = {_kind(source.layers[name]) for name in read_adapter(adapter, source).layers()}
    layers = [layer for name, layer in target.layers.items() if slice_of(name)[0] not in target.layers]
    deltas = {
        layer.name: LowRankDelta(*make_zero_factors(layer.weight.matrix_shape, rank, generator))
        for layer in layers
        if layer.block and _kind(layer) in kinds and explain_untrainable(model.model, layer) is None
    }
    if not deltas:
        raise NothingToTransfer(
            f"Refining on {target.name} from zeros: expected blocks with layers of the kind that {adapter.name} "
            f"changes ({', '.join(sorted(kinds))}), found none. Connect a transferred LoRA as `transferred`."
        )
    return StartingPoint(None, target, deltas)


def _kind(layer: Layer) -> str:
    return "convolution" if math.prod(layer.weight.shape[2:]) > 1 else "linear"


def _to_low_rank(name: str, delta: LowRankDelta, placed: AdapterOnBase, lost: list[float]) -> LowRankDelta:
    """A layer without a low-rank form is cut to a rank, as when an adapter is scaled."""
    if name in placed.factored:
        return delta
    cut, share = delta.truncated(TransferSettings.dense_rank)
    lost.append(share)
    return cut


def _find_text_encoder_tensors(adapter: Adapter, placed: AdapterOnBase) -> dict[str, Tensor]:
    held = adapter.state_dict()
    return {key: held[key] for key, reason in placed.unread.items() if reason == OF_TEXT_ENCODER and key in held}


def _explain_misfit(untrainable: str | None, layer: Layer, target: HostBase) -> str | None:
    """Why a layer of an adapter for another base does not fit the target, or None."""
    if untrainable == ABSENT:
        return ABSENT
    own = target.layers.get(layer.name, layer).weight
    return None if own.matrix_shape == layer.weight.matrix_shape else "the target's layer has another shape"


def _explain_untrained(reasons: Mapping[str, str], misfits: Mapping[str, str], placed: AdapterOnBase) -> list[str]:
    """Notes on what is not refined, by reason."""
    notes = [f"{count} layers stay unchanged: {reason}" for reason, count in Counter(reasons.values()).items()]
    if placed.vectors:
        notes.append(f"{len(placed.vectors)} biases and norms stay unchanged")
    if passed := sum(reason == OF_TEXT_ENCODER for reason in placed.unread.values()):
        notes.append(f"{passed} tensors of the text encoder stay unchanged")
    lost = Counter(reason for reason in placed.unread.values() if reason != OF_TEXT_ENCODER)
    lost.update([*(one.reason for one in placed.skipped), *misfits.values()])
    return notes + [f"{count} of the LoRA's keys or layers are left out: {reason}" for reason, count in lost.items()]
