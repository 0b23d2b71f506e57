"""Readers of a base's weights: whole, or a few rows of a weight after another."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from ....core.layers import Rows, WeightRef

Reader = Callable[[WeightRef], Tensor]


@runtime_checkable
class PartsReader(Protocol):
    """A reader that can read rows of a weight without the rest of it, as files can."""

    def read_parts(self, weight: WeightRef, parts: Sequence[Rows]) -> Iterator[Tensor]: ...


def read_parts(reader: Reader, weight: WeightRef, parts: Sequence[Rows]) -> Iterator[Tensor]:
    """Rows of a weight, one part after another. A loaded model may have to make the whole weight (merges, quantised
    weights), so its reader is asked only once."""
    if isinstance(reader, PartsReader):
        return reader.read_parts(weight, parts)
    whole = reader(weight)
    return (whole[rows.as_slice] for rows in parts)


@dataclass(frozen=True)
class JoinedReader:
    """Reads the weights whose keys are in `from_encoder` with the reader of a text encoder, and all others with that of
    the diffusion model."""

    model: Reader
    encoder: Reader
    from_encoder: frozenset[str]

    def __call__(self, weight: WeightRef) -> Tensor:
        return self._reader_of(weight)(weight)

    def read_parts(self, weight: WeightRef, parts: Sequence[Rows]) -> Iterator[Tensor]:
        return read_parts(self._reader_of(weight), weight, parts)

    def _reader_of(self, weight: WeightRef) -> Reader:
        return self.encoder if weight.key in self.from_encoder else self.model
