"""The deltas that a training on pictures starts from: new ones on the linear layers of the blocks, or a LoRA's."""

from dataclasses import dataclass
from typing import Any

import torch

from ....core.errors import NothingToTransfer
from ....core.layers import Layer
from ....core.reader import LayerReader
from ....core.refine.parameterisation import (
    Parameterisation,
    Trainable,
    TrainableDelta,
    compute_deltas,
    continue_delta,
    make_trainable,
)
from ....core.resources import CPU, Resources
from ....core.subspace import RankRule, Subspace
from ..adapter.adapter import Adapter, LayerChanges
from ..base.from_model import HostBase
from ..training.start import StartingPoint, find_trainable, start_from_adapter

_NOTED = 0.01  # share of a LoRA's energy; losing less needs no note
_NO_DIRECTIONS = Subspace(torch.zeros(0, 0), torch.zeros(0, 0), 0.0)  # a plain LoRA needs none


@dataclass(frozen=True)
class LoraXSettings:
    """parameterisation: what is trained. share: of the base's singular directions, by which a layer has k of them."""

    parameterisation: Parameterisation = "inside"
    share: float = 0.5

    @property
    def rule(self) -> RankRule:
        return RankRule("fraction", self.share)


@dataclass(frozen=True)
class LoraXStart:
    """point: the LoRA that is trained further, and its untrained part; trainable: the deltas by layer; directions: k by
    layer, empty for a plain LoRA."""

    point: StartingPoint
    trainable: Trainable
    directions: dict[str, int]
    notes: tuple[str, ...] = ()


def choose_start(
    model: Any, base: HostBase, adapter: Adapter | None, settings: LoraXSettings, rank: int, seed: int, using: Resources
) -> LoraXStart:
    """New deltas of this rank, or the adapter's. NothingToTransfer if no layer can be trained."""
    point = _open_start(model, base, adapter, seed)
    # A transfer knows q, k and v of a fused weight as layers of their own, with singular directions of their own.
    own = [base.layers[name] for name in base.own_layers()]
    layers = [base.layers[name] for name in point.deltas] if adapter else find_trainable(own, model, ("linear",))
    if not layers:
        raise NothingToTransfer(
            f"Training on {base.name}: expected linear layers in the model's blocks, found none. Choose another model."
        )
    plain = settings.parameterisation == "plain"
    spaces = {} if plain else find_directions(base, layers, settings.rule, using)
    generator = torch.Generator().manual_seed(seed)

    def make(layer: Layer) -> TrainableDelta:
        space = spaces.get(layer.name, _NO_DIRECTIONS)
        if (delta := point.deltas.get(layer.name)) is not None:
            return continue_delta(settings.parameterisation, delta, space, generator)
        return make_trainable(settings.parameterisation, layer.weight.matrix_shape, rank, space, generator)

    trainable = {layer.name: make(layer) for layer in layers}
    directions = {name: space.rank for name, space in spaces.items()}
    return LoraXStart(point, trainable, directions, (*point.notes, *_note_loss(point, trainable)))


def find_directions(base: HostBase, layers: list[Layer], rule: RankRule, using: Resources) -> dict[str, Subspace]:
    """The leading singular directions of each layer, in main memory; from the cache if it has them."""

    def find(layer: Layer) -> Subspace:
        reader = LayerReader(base, layer, using)
        return using.compute(lambda device: reader.singular_directions(rule, device).to(CPU), layer.name)

    spaces = using.over_layers(layers, find, _cost, lambda layer: layer.name)
    return {layer.name: space for layer, space in zip(layers, spaces, strict=True)}


def _cost(layer: Layer) -> int:
    outputs, inputs = layer.weight.matrix_shape
    return outputs * inputs * min(outputs, inputs)


def _open_start(model: Any, base: HostBase, adapter: Adapter | None, seed: int) -> StartingPoint:
    if adapter is None:
        return StartingPoint(None, {}, LayerChanges(base, {}, {}))
    return start_from_adapter(adapter, base, model, seed)


def _note_loss(point: StartingPoint, trainable: Trainable) -> tuple[str, ...]:
    """A note if a part of the LoRA to start from does not fit into what is trained."""
    whole = sum(float(delta.norm()) ** 2 for delta in point.deltas.values())
    kept = sum(float(delta.norm()) ** 2 for delta in compute_deltas(trainable).values()) if whole else 0.0
    if whole == 0 or (lost := 1 - kept / whole) < _NOTED:
        return ()
    return (f"{lost:.0%} of the LoRA to start from (by energy) lies outside of what is trained, and is left out",)
