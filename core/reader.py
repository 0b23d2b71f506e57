"""Reads and decomposes one layer of a base: each at most once in a run, and not at all if the cache has the result."""

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from .cache import hash_weight
from .drift import block_rows
from .layers import Base, Layer, Rows, read_parts
from .matching.channels import Channels
from .resources import Resources
from .subspace import Decomposition, RankRule, Subspace, decompose, decompose_leading


class LayerReader:
    """A layer whose weight (m, n) is read when it is first needed.

    channels: the channels that a narrower partner kept; the weight is then that part of the layer's weight.
    """

    def __init__(self, base: Base, layer: Layer, using: Resources, channels: Channels | None = None) -> None:
        self._base, self._layer, self._using, self._channels = base, layer, using, channels
        self._cache = using.cache
        self._decomposed: Decomposition | None = None

    @cached_property
    def weight(self) -> Tensor:
        """The weight (m, n) as float32 on the CPU."""
        whole = self._base.read(self._layer)
        return whole if self._channels is None else self._channels.weight(whole)

    def read(self) -> None:
        """Read the weight now, so that a graphics card does not wait for it later."""
        _ = self.weight

    def prepare(self) -> None:
        """Read now what `subspace` needs: the weight, or its hash if there is a cache."""
        _ = self.weight if self._cache is None else self.digest

    @property
    def shape(self) -> tuple[int, int]:
        return self._layer.weight.matrix_shape if self._channels is None else self._channels.shape

    @property
    def _location(self) -> str | None:
        return self._layer.weight.location if self._channels is None else None

    def parts(self, parts: Sequence[Rows]) -> Iterator[Tensor]:
        """Rows of the weight, one part (rows, n) after another."""
        if self._location is None:
            return (self.weight[rows.as_slice] for rows in parts)
        return read_parts(self._base, self._layer, parts)

    @cached_property
    def digest(self) -> str:
        """The hash of the weight's values; from the cache's index if the file has not changed."""
        location = self._location
        known = None if self._cache is None or location is None else self._cache.digest_at(location)
        if known is not None:
            return known
        digest = hash_weight(self.weight)
        if self._cache is not None and location is not None:
            self._cache.store_digest(location, digest)
            if self._cache.trouble is not None:
                self._using.notes.setdefault("cache index", self._cache.trouble)
        return digest

    def rank(self, rule: RankRule, device: torch.device) -> int:
        """k by a rule. The energy rule needs the whole spectrum once; the cache stores its result."""
        if rule.kind != "energy":
            return rule.max_rank(self.shape)
        if self._cache is None:
            return rule.rank(self._decompose_all(device))
        key = f"rank {rule.amount} {self.digest}"
        known = self._cache.figures(key) or {"rank": rule.rank(self._decompose_all(device))}
        self._cache.store_figures(key, known)
        return known["rank"]

    def subspace(self, rank: int, rule: RankRule, device: torch.device) -> Subspace:
        """The `rank` leading directions, on a device.

        With the energy rule they always come from the whole spectrum, so that the result does not depend on whether the
        cache knew the rank.
        """
        decomposition = None if self._cache is None else self._cache.find(self.digest, rank)
        if decomposition is None:
            decomposition = self._store(self._decompose(rank, rule, device).limited(rank))
        return decomposition.to(device).cut(rank)

    def singular_directions(self, rule: RankRule, device: torch.device) -> Subspace:
        """The leading left and right singular vectors by a rule, in pairs. Unlike those of `subspace` they are never
        mere bases of the same spaces."""
        rank = self.rank(rule, device)
        known = None if self._cache is None else self._cache.find(self.digest, rank)
        if known is None or not known.has_order():
            decomposition = decompose(self.weight.to(device), rank, self._using.eigensolver)
            known = self._store(decomposition.limited(rank))
        return known.to(device).cut(rank)

    def _decompose(self, rank: int, rule: RankRule, device: torch.device) -> Decomposition:
        if rule.kind == "energy":
            return self._decompose_all(device)
        return decompose_leading(self.weight.to(device), rank, self._using.eigensolver)

    def _decompose_all(self, device: torch.device) -> Decomposition:
        if self._decomposed is None:
            self._decomposed = decompose(self.weight.to(device), min(self.shape), self._using.eigensolver)
        return self._decomposed

    def _store(self, decomposition: Decomposition) -> Decomposition:
        if self._cache is None:
            return decomposition
        try:
            return self._cache.store(self.digest, decomposition)
        except OSError as error:  # a full or read-only disk must not end a run
            note = f"decomposed layers could not be stored in {self._cache.folder}: {error.strerror or error}"
            self._using.notes.setdefault("cache", note)
            return self._cache.round_as_stored(decomposition)


def weight_blocks(source: LayerReader, target: LayerReader) -> Iterator[tuple[Tensor, Tensor]]:
    """The blocks of rows of two weights, from the first row to the last. Files are read block by block: no whole weight
    is in memory, and a block is still in the processor's cache when it is used."""
    outputs, inputs = source.shape
    step = block_rows(inputs)
    parts = [Rows(first, min(first + step, outputs)) for first in range(0, outputs, step)]
    yield from zip(source.parts(parts), target.parts(parts), strict=True)


def pair_subspaces(
    source: LayerReader, target: LayerReader, rule: RankRule, device: torch.device
) -> tuple[Subspace, Subspace]:
    """The subspaces of two layers of one shape, both with the larger of the two ranks that the rule gives."""
    rank = max(source.rank(rule, device), target.rank(rule, device))
    return source.subspace(rank, rule, device), target.subspace(rank, rule, device)
