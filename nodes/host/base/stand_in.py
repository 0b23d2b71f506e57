"""A stand-in for a source base that is not on this disk: the target's layers under the source's block numbers."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor

from ....core.layers import Layer, WeightRef
from ....core.matching.known_maps import KnownMap
from ....core.reports.envelope import MISSING
from .from_model import HostBase
from .names import UNET, block_and_role, layer_name, parse_target


def stand_in_for_source(target: HostBase, known: KnownMap | None) -> HostBase:
    """A base that reads a LoRA as its missing source base would: with the source's names and the target's shapes.

    known: the published map from the source to the target; None if both have the same layers. Its weights are the
    target's, so that a change that depends on the weight (DoRA, OFT) is computed as ComfyUI does when it loads the LoRA
    on the target.
    """
    name = f"a base that is {MISSING}" if known is None else f"{known.source}, {MISSING}"
    base = replace(target, name=name, identity=MISSING, notes=())
    return base if known is None else _renumber(base, known)


def _renumber(base: HostBase, known: KnownMap) -> HostBase:
    """The base with the blocks of the map's source in place of those of its target."""
    copies = _copies_of_blocks(known)
    key_map: dict[str, Any] = {}
    extra: set[str] = set()
    for spelled, target in base.key_map.items():
        for old, new in copies(layer_name(target)):
            own = _replace_number(spelled, old, new)
            key_map[own] = _renumber_target(target, old, new)
            extra |= {own} if spelled in base.extra else set()
    parameters = {
        _replace_number(key, old, new): shape
        for key, shape in base.parameters.items()
        for old, new in copies(key.removeprefix(UNET))
    }

    def read(weight: WeightRef) -> Tensor:
        number = known.number_of(weight.key.removeprefix(UNET))
        if number is None:
            return base.reader(weight)
        return base.reader(replace(weight, key=_replace_number(weight.key, number, known.template_of(number))))

    return replace(
        base,
        key_map=key_map,
        extra=frozenset(extra),
        layers=_renumber_layers(base, known),
        parameters=parameters,
        reader=read,
    )


def _copies_of_blocks(known: KnownMap) -> Any:
    """A function from a name in the target to pairs (its block's number, the number of a source block with the same
    layers); (0, 0), which changes nothing, for a name outside of the stack."""
    sources_of: dict[int, list[int]] = {}
    for source in range(known.depth):
        sources_of.setdefault(known.template_of(source), []).append(source)

    def copies(name: str) -> list[tuple[int, int]]:
        number = known.number_of(name)
        return [(0, 0)] if number is None else [(number, source) for source in sources_of.get(number, [])]

    return copies


def _renumber_layers(base: HostBase, known: KnownMap) -> dict[str, Layer]:
    """The layers in the order of the source model, with the blocks of the stack where the target has them."""
    blocks: dict[int, list[Layer]] = {}
    for layer in base.layers.values():
        if (number := known.number_of(layer.name)) is not None:
            blocks.setdefault(number, []).append(layer)

    def layers() -> Iterator[Layer]:
        before = True
        for layer in base.layers.values():
            if known.number_of(layer.name) is None:
                yield layer
            elif before:
                before = False
                for source in range(known.depth):
                    template = known.template_of(source)
                    yield from (_renumber_layer(own, template, source) for own in blocks.get(template, []))

    return {layer.name: layer for layer in layers()}


def _renumber_layer(layer: Layer, old: int, new: int) -> Layer:
    name = _replace_number(layer.name, old, new)
    weight = replace(layer.weight, key=_replace_number(layer.weight.key, old, new), file=None)
    return replace(layer, name=name, block=block_and_role(name)[0], weight=weight)


def _renumber_target(target: Any, old: int, new: int) -> Any:
    """A value of a key map (names.parse_target) with another block number in its key."""
    key = _replace_number(parse_target(target)[0], old, new)
    return key if isinstance(target, str) else (key, *target[1:])


def _replace_number(name: str, old: int, new: int) -> str:
    """A name with another block number. The block's number is the first number of a name."""
    return name if old == new else re.sub(rf"(?<=[._]){old}(?=[._])", str(new), name, count=1)
