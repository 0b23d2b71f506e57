"""The blocks of a model: layers that share a depth, and which blocks of two models are of one make."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..layers import Layer


@dataclass(frozen=True)
class Block:
    """The layers of one depth by their roles; a layer outside all blocks is a block of its own, under its own name."""

    name: str
    layers: Mapping[str, Layer]

    @property
    def text_encoder(self) -> bool:
        return next(iter(self.layers.values())).text_encoder

    def common_roles(self, other: "Block") -> list[str]:
        """Roles that both have in one shape, in this block's order."""
        mine, theirs = self.layers, other.layers
        return [role for role in mine if role in theirs and mine[role].weight.shape == theirs[role].weight.shape]

    def is_like(self, other: "Block") -> bool:
        """Of one make: no role differs in shape, and what they share is at least half of the larger one.

        A block that lacks a role (a skip connection, an adapter's extra projection) still belongs to its kind.
        """
        if self.text_encoder != other.text_encoder:
            return False
        named, fitting = self.layers.keys() & other.layers.keys(), self.common_roles(other)
        return len(fitting) == len(named) and 2 * len(fitting) >= max(len(self.layers), len(other.layers))


@dataclass(frozen=True)
class Kind:
    """Blocks of one make, each side in its model's order."""

    sources: tuple[Block, ...]
    targets: tuple[Block, ...]

    def roles(self) -> list[str]:
        """Roles that every block has."""
        first, *rest = (*self.sources, *self.targets)
        return [role for role in first.layers if all(role in block.layers for block in rest)]


def blocks_of(layers: Iterable[Layer]) -> tuple[Block, ...]:
    """The blocks of a model in the order in which their first layers come."""
    found: dict[str, dict[str, Layer]] = {}
    for layer in layers:
        found.setdefault(layer.block or layer.name, {})[layer.role] = layer
    return tuple(Block(name, roles) for name, roles in found.items())


def kinds_of(source: Iterable[Block], target: Iterable[Block]) -> list[Kind]:
    """Sort the blocks of two models by make. Order over the whole model is kept: nesting needs no other treatment."""
    kinds: list[tuple[list[Block], list[Block]]] = []
    for side, blocks in enumerate((source, target)):
        for block in blocks:
            like = next((kind for kind in kinds if _first(kind).is_like(block)), None)
            if like is None:
                kinds.append(like := ([], []))
            like[side].append(block)
    return [Kind(tuple(sources), tuple(targets)) for sources, targets in kinds]


def _first(kind: tuple[list[Block], list[Block]]) -> Block:
    return (*kind[0], *kind[1])[0]
