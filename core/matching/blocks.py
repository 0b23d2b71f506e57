"""Groups a model's layers into blocks, and the blocks of two models into kinds with the same roles and shapes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..layers import Layer


@dataclass(frozen=True)
class Block:
    """The layers of one block by their roles. A layer outside all blocks is a block of its own, with its own name."""

    name: str
    layers: Mapping[str, Layer]

    @property
    def text_encoder(self) -> bool:
        return next(iter(self.layers.values())).text_encoder

    def common_roles(self, other: "Block") -> list[str]:
        """Roles that both blocks have with the same shape, in this block's order."""
        theirs = other.layers
        return [
            role
            for role, layer in self.layers.items()
            if role in theirs and layer.weight.shape == theirs[role].weight.shape
        ]

    def is_like(self, other: "Block") -> bool:
        """Whether two blocks are of the same kind: no shared role differs in shape, and at least half of the larger
        block's roles are shared.

        A block without one of the roles (a skip connection, an extra projection) still belongs to its kind.
        """
        if self.text_encoder != other.text_encoder:
            return False
        same_name, same_shape = self.layers.keys() & other.layers.keys(), self.common_roles(other)
        return len(same_shape) == len(same_name) and 2 * len(same_shape) >= max(len(self.layers), len(other.layers))


@dataclass(frozen=True)
class Kind:
    """Blocks with the same roles and shapes, in the order of each model."""

    sources: tuple[Block, ...]
    targets: tuple[Block, ...]

    def roles(self) -> list[str]:
        """The roles that every block of the kind has."""
        first, *rest = (*self.sources, *self.targets)
        return [role for role in first.layers if all(role in block.layers for block in rest)]


def blocks_of(layers: Iterable[Layer]) -> tuple[Block, ...]:
    """Group layers into blocks, in the order of the first layer of each block."""
    roles_by_block: dict[str, dict[str, Layer]] = {}
    for layer in layers:
        roles_by_block.setdefault(layer.block or layer.name, {})[layer.role] = layer
    return tuple(Block(name, roles) for name, roles in roles_by_block.items())


def kinds_of(source: Iterable[Block], target: Iterable[Block]) -> list[Kind]:
    """Group the blocks of two models by kind. Blocks keep their order over the whole model, so nested blocks need no
    special case."""
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
