"""One layer of a base in the course of a run: read at most once, decomposed at most once, neither where it is known."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from .cache import digest_of
from .drift import block_rows
from .layers import Base, Layer, Rows
from .matching.channels import Channels
from .resources import Resources
from .subspace import Decomposition, RankRule, Subspace, decompose, decompose_leading


class LayerReader:
    """A layer whose weight (m, n) is read when something asks for it that the cache does not know.

    kept: the channels of the layer that count, where its partner is narrower: the weight is then that part of it.
    """

    def __init__(self, base: Base, layer: Layer, using: Resources, kept: Channels | None = None) -> None:
        self._base, self._layer, self._using, self._kept = base, layer, using, kept
        self._cache = using.cache
        self._decomposed: Decomposition | None = None

    @cached_property
    def stored(self) -> Tensor:
        """The weight as float32 on the CPU."""
        whole = self._base.read(self._layer)
        return whole if self._kept is None else self._kept.weight(whole)

    def read(self) -> None:
        """Have the weight at hand: reading it later would keep a card waiting."""
        _ = self.stored

    def prepare(self) -> None:
        """Have at hand what a subspace starts from: the hash that the cache knows it by, or the weight."""
        _ = self.stored if self._cache is None else self.digest

    @property
    def shape(self) -> tuple[int, int]:
        return self._layer.weight.matrix_shape if self._kept is None else self._kept.shape

    @property
    def _place(self) -> str | None:
        return self._layer.weight.location if self._kept is None else None

    def rows(self, rows: Rows) -> Tensor:
        """Some rows of the weight."""
        weight = self._layer.weight
        if self._place is None:
            return self.stored[rows.as_slice]
        part = replace(weight, shape=(rows.length, *weight.shape[1:]), rows=rows.within(weight.rows))
        return self._base.read(replace(self._layer, weight=part))

    @cached_property
    def digest(self) -> str:
        """The hash of the weight's values; read from the cache's index where the file is as it was."""
        place = self._place
        known = None if self._cache is None or place is None else self._cache.digest_at(place)
        if known is not None:
            return known
        found = digest_of(self.stored)
        if self._cache is not None and place is not None:
            self._cache.note_place(place, found)
            if self._cache.trouble is not None:
                self._using.notes.setdefault("cache index", self._cache.trouble)
        return found

    def rank(self, rule: RankRule, device: torch.device) -> int:
        """k by a rule. The energy rule has to see the whole spectrum once; its answer is kept."""
        if rule.kind != "energy":
            return rule.max_rank(self.shape)
        if self._cache is None:
            return rule.rank(self._whole(device))
        key = f"rank {rule.amount} {self.digest}"
        known = self._cache.figures(key) or {"rank": rule.rank(self._whole(device))}
        self._cache.note_figures(key, known)
        return known["rank"]

    def subspace(self, rank: int, rule: RankRule, device: torch.device) -> Subspace:
        """The `rank` leading directions, on a device; by the energy rule always out of the whole spectrum, so that it
        does not matter whether the rank was known before."""
        found = None if self._cache is None else self._cache.find(self.digest, rank)
        if found is None:
            by_energy = rule.kind == "energy"
            whole = (
                self._whole(device)
                if by_energy
                else decompose_leading(self.stored.to(device), rank, self._using.eigensolver)
            )
            found = self._stored_again(whole.limited(rank))
        return found.to(device).cut(rank)

    def _whole(self, device: torch.device) -> Decomposition:
        if self._decomposed is None:
            self._decomposed = decompose(self.stored.to(device), min(self.shape), self._using.eigensolver)
        return self._decomposed

    def _stored_again(self, decomposition: Decomposition) -> Decomposition:
        if self._cache is None:
            return decomposition
        try:
            return self._cache.keep(self.digest, decomposition)
        except OSError as error:  # a full or read-only disk must not end a run that does not need it
            note = f"decomposed layers could not be kept in {self._cache.folder}: {error.strerror or error}"
            self._using.notes.setdefault("cache", note)
            return self._cache.rounded(decomposition)


def weight_blocks(source: LayerReader, target: LayerReader) -> Iterator[tuple[Tensor, Tensor]]:
    """Two weights in blocks of rows, from the first to the last. A file is read block by block: a weight is never in
    memory as a whole, and what is read is still in the core's cache when it is used."""
    outputs, inputs = source.shape
    step = block_rows(inputs)
    for first in range(0, outputs, step):
        rows = Rows(first, min(first + step, outputs))
        yield source.rows(rows), target.rows(rows)


def pair_subspaces(
    source: LayerReader, target: LayerReader, rule: RankRule, device: torch.device
) -> tuple[Subspace, Subspace]:
    """The subspaces of two layers of one shape, each cut by the rule, then both at the larger k."""
    rank = max(source.rank(rule, device), target.rank(rule, device))
    return source.subspace(rank, rule, device), target.subspace(rank, rule, device)
