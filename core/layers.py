"""What a base model is to the engine: named layers, and a way to read one weight at a time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from .errors import ShapeMismatch


@dataclass(frozen=True, order=True)
class Rows:
    """The rows of a tensor from `start` up to `stop`, which is not one of them."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def as_slice(self) -> slice:
        return slice(self.start, self.stop)

    def within(self, part: "Rows | None") -> "Rows":
        """These rows of a part of a tensor as rows of the whole tensor; a part of None is all of it."""
        return self if part is None else Rows(part.start + self.start, part.start + self.stop)

    def __str__(self) -> str:
        return f"[{self.start}:{self.stop}]"


@dataclass(frozen=True)
class WeightRef:
    """Where a base matrix lives. Knowing one costs a header, not a weight.

    key: the model's name of the tensor, which `rows` are of; how it lies in a file is the base's affair.
    shape: the shape of the layer's own tensor, (out, in) or (out, in, kh, kw), after `rows` are taken.
    rows: the part along the first axis when the layer is a slice of a fused weight, else None.
    file: what tells the file and its state (path, size, time of change); None for a model in memory.
    """

    key: str
    shape: tuple[int, ...]
    dtype: str
    rows: Rows | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        if len(self.shape) < 2:
            raise ShapeMismatch(f"Weight {self.key}: expected a matrix or a convolution, found shape {self.shape}.")

    @property
    def place(self) -> str | None:
        """Equal places hold equal values, from one session to the next; None where nothing promises that."""
        return None if self.file is None else f"{self.file} {self.key} {self.rows}"

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(m, n): a convolution (out, in, kh, kw) is the matrix out x (in*kh*kw), row-major."""
        return self.shape[0], math.prod(self.shape[1:])


@dataclass(frozen=True)
class Layer:
    """One matrix of a base model. The engine never takes the name apart; `block` and `role` order the pictures."""

    name: str
    role: str
    block: str
    weight: WeightRef
    text_encoder: bool = False


class Base(Protocol):
    """A lazy handle on a base model: names and shapes at once, weights one layer at a time."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def layers(self) -> Mapping[str, Layer]: ...

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of the report should know of this base."""
        ...

    def read(self, layer: Layer) -> torch.Tensor:
        """The layer's weight as a float32 matrix (m, n) of its own storage, on any device."""
        ...


@dataclass(frozen=True)
class LayerPair:
    """A source layer and the target layer that it feeds, with the reason for the match in words."""

    source: Layer
    target: Layer
    why: str


@dataclass(frozen=True)
class Skipped:
    """A layer that is not transferred, why, and the adapter file's keys that stay behind with it."""

    layer: str
    reason: str
    keys: tuple[str, ...] = ()
