"""Bases whose weights are generated from seeds on reading: full-size models that need no memory."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from core.layers import Layer, WeightRef

from .unets import Blocks


def noise(shape: tuple[int, ...], *seed: object) -> Tensor:
    number = int.from_bytes(hashlib.sha256(repr(seed).encode()).digest()[:6], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(number))


class SeededBase:
    """A base of blocks (name -> role -> shape). Subclasses generate the weights in `weight(block, role, shape)`."""

    notes = ()

    def __init__(self, name: str, blocks: Blocks) -> None:
        self.name = self.fingerprint = name
        self._origins = {
            f"{block}.{role}": (block, role, shape) for block, roles in blocks.items() for role, shape in roles.items()
        }
        self.layers: Mapping[str, Layer] = {
            name: Layer(name, role, block, WeightRef(name, shape, "F32"))
            for name, (block, role, shape) in self._origins.items()
        }

    def read(self, layer: Layer) -> Tensor:
        return self.weight(*self._origins[layer.name]).flatten(1)

    def weight(self, block: str, role: str, shape: tuple[int, ...]) -> Tensor:
        raise NotImplementedError


class Parent(SeededBase):
    """A parent whose blocks resemble each other: all weights share a mean and column scales, and neighbouring blocks
    have a cosine of about a third, as if each block had been copied from the one before and trained on."""

    def __init__(self, name: str, blocks: Blocks) -> None:
        super().__init__(name, blocks)
        self._before = dict(zip(list(blocks)[1:], blocks, strict=False))

    def weight(self, block: str, role: str, shape: tuple[int, ...]) -> Tensor:
        own = noise(shape, self.name, block, role)
        own += 0.4 * noise(shape, self.name, self._before.get(block), role)
        scales = noise((1, shape[1], *[1] * (len(shape) - 2)), "scales", role).mul(0.5).exp()
        return scales * own + 0.3


class Child(SeededBase):
    """A child whose blocks are their parents' blocks, perturbed to a weight cosine."""

    def __init__(
        self, name: str, blocks: Blocks, parent: SeededBase, parents: Mapping[str, str], cosine: float
    ) -> None:
        super().__init__(name, blocks)
        self._parent, self._parents, self._cosine = parent, parents, cosine

    def weight(self, block: str, role: str, shape: tuple[int, ...]) -> Tensor:
        return perturb(self._parent.weight(self._parents[block], role, shape), self._cosine, self.name, block, role)


def perturb(weight: Tensor, cosine: float, *seed: object) -> Tensor:
    """The weight with noise mixed in: it has this cosine with the original, and nearly its norm."""
    added = noise(tuple(weight.shape), *seed)
    return cosine * weight + (1 - cosine**2) ** 0.5 * weight.norm() / added.norm() * added


class ParentWithDecoys(SeededBase):
    """A parent with a decoy before every block: the same weights with shuffled rows, so shape, norm, spectrum and
    right-hand subspaces are equal."""

    def __init__(self, parent: SeededBase, blocks: Blocks) -> None:
        both = {name: roles for block, roles in blocks.items() for name in (f"decoy.{block}", block)}
        super().__init__(f"{parent.name} with decoys", both)
        self._parent = parent

    def weight(self, block: str, role: str, shape: tuple[int, ...]) -> Tensor:
        weight = self._parent.weight(block.removeprefix("decoy."), role, shape)
        if not block.startswith("decoy."):
            return weight
        return weight[noise((shape[0],), "order", block, role).argsort()]
