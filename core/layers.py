"""What the engine knows of a base model: named layers, and how to read one weight at a time."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from .errors import ShapeMismatch


@dataclass(frozen=True, order=True)
class Rows:
    """The rows of a tensor from `start` up to, but not including, `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def as_slice(self) -> slice:
        return slice(self.start, self.stop)

    def within(self, part: "Rows | None") -> "Rows":
        """Convert rows of a part of a tensor to rows of the whole tensor. part: None is the whole tensor."""
        return self if part is None else Rows(part.start + self.start, part.start + self.stop)

    def __str__(self) -> str:
        return f"[{self.start}:{self.stop}]"


@dataclass(frozen=True)
class WeightRef:
    """Where the weight of a layer is stored. It is made from a file's header, without reading the weight.

    key: the model's name for the tensor. Only the base knows how that tensor is stored.
    shape: the shape of the layer's own weight, (out, in) or (out, in, kh, kw), that is, of `rows` if there are any.
    rows: the rows of the tensor, if the layer is a slice of a fused weight; else None.
    file: text that identifies the file and its state (path, size, time of change); None for a model in memory.
    ShapeMismatch if the shape has fewer than two axes.
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
    def location(self) -> str | None:
        """Text that identifies the values: equal locations hold equal values, also in later sessions. None if
        unknown."""
        return None if self.file is None else f"{self.file} {self.key} {self.rows}"

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(m, n). A convolution (out, in, kh, kw) is the matrix (out, in kh kw), row-major."""
        return self.shape[0], math.prod(self.shape[1:])


@dataclass(frozen=True)
class Layer:
    """One matrix of a base model. The engine never parses the name; `block` and `role` say where the layer belongs."""

    name: str
    role: str
    block: str
    weight: WeightRef
    text_encoder: bool = False


class Base(Protocol):
    """A base model: names and shapes are known, weights are read one layer at a time."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def layers(self) -> Mapping[str, Layer]: ...

    @property
    def notes(self) -> Sequence[str]:
        """Sentences about this base for the report."""
        ...

    def read(self, layer: Layer) -> torch.Tensor:
        """The layer's weight as a float32 matrix (m, n) in memory of its own, on any device."""
        ...


@runtime_checkable
class ReadsParts(Protocol):
    """A base that can read rows of a weight without the rest of it."""

    def read_parts(self, layer: Layer, parts: Sequence[Rows]) -> Iterator[torch.Tensor]:
        """These rows of the layer's weight (m, n) as float32, one part (rows, n) after another."""
        ...


def read_parts(base: Base, layer: Layer, parts: Sequence[Rows]) -> Iterator[torch.Tensor]:
    """Rows of a layer's weight, one part (rows, n) after another; a base that cannot read rows reads all of it once."""
    if isinstance(base, ReadsParts):
        return base.read_parts(layer, parts)
    weight = base.read(layer)
    return (weight[rows.as_slice] for rows in parts)


@dataclass(frozen=True)
class LayerPair:
    """A source layer, the target layer that it feeds, and the reason in words."""

    source: Layer
    target: Layer
    why: str


@dataclass(frozen=True)
class Skipped:
    """A layer that is not transferred, the reason, and the keys of the adapter file that are not used because of it.

    target: the target layer, if the layer was skipped only because its similarity is below the threshold.
    """

    layer: str
    reason: str
    keys: tuple[str, ...] = ()
    target: str | None = None
