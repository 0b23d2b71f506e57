"""Reports what happened to one layer."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from ..layers import Layer, LayerPair, Skipped
from ..similarity import Comparison, LayerSimilarity


@dataclass(frozen=True)
class LayerReport:
    """One layer of a run. In a report of a comparison the fields after `keys` are None or zero.

    by_threshold: whether another threshold could have changed the decision.
    norm_ratio: ||dW_t|| / ||dW_s||, where dW_s is cut to the channels of a narrower target. cosine_to_copy: of dW_t and
    dW_s. energy_lost: share of ||dW_t||^2 lost by cutting the rank. block_energies: shares of ||dW_s||^2 in the
    source's subspace/subspace, subspace/null, null/subspace and null/null blocks (output/input side).
    drift_against_lora: ||(W_t - W_s) V|| / ||dW_s|| on the inputs V that the delta reads, if the method needs it.
    """

    pair: LayerPair
    similarity: LayerSimilarity
    decision: Literal["compared", "transferred", "copied"]
    reason: str
    by_threshold: bool = False
    keys: tuple[str, ...] = ()
    rank_in: int | None = None
    rank_out: int | None = None
    norm_ratio: float | None = None
    cosine_to_copy: float | None = None
    equals_copy: bool | None = None
    energy_lost: float = 0.0
    undefined_directions: int = 0
    block_energies: tuple[float, float, float, float] | None = None
    drift_against_lora: float | None = None

    def as_json(self) -> dict[str, Any]:
        pair, similarity = self.pair, self.similarity
        return {
            "source": pair.source.name,
            "target": pair.target.name,
            "match": pair.why,
            "block": pair.target.block,
            "role": pair.target.role,
            "shape": list(pair.target.weight.shape),
            "k": similarity.rank,
            "phi": similarity.phi,
            "phi_above_chance": similarity.above_chance,
            "phi_left": similarity.left.phi,
            "phi_right": similarity.right.phi,
            "chance_left": similarity.left.chance,
            "chance_right": similarity.right.chance,
            "energy_source": similarity.source_energy,
            "energy_target": similarity.target_energy,
            "weight_cosine": similarity.weight_cosine,
            "drift": similarity.drift,
            "decision": self.decision,
            "reason": self.reason,
            "by_threshold": self.by_threshold,
            "keys": list(self.keys),
            "rank_in": self.rank_in,
            "rank_out": self.rank_out,
            "norm_ratio": self.norm_ratio,
            "cosine_to_copy": self.cosine_to_copy,
            "equals_copy": self.equals_copy,
            "energy_lost": self.energy_lost,
            "undefined_directions": self.undefined_directions,
            "block_energies": None if self.block_energies is None else list(self.block_energies),
            "drift_against_lora": self.drift_against_lora,
        }


@dataclass(frozen=True)
class SkippedLayer:
    """A part of the adapter that was not transferred.

    source: its layer of the source, None if the source has no such layer. target, similarity: set if the layer was
    compared, and skipped because the similarity is below the threshold.
    """

    skipped: Skipped
    source: Layer | None = None
    target: Layer | None = None
    similarity: LayerSimilarity | None = None

    @property
    def layer(self) -> str:
        return self.skipped.layer

    @property
    def reason(self) -> str:
        return self.skipped.reason

    @property
    def keys(self) -> tuple[str, ...]:
        return self.skipped.keys

    def as_json(self) -> dict[str, Any]:
        source, target, similarity = self.source, self.target, self.similarity
        return {
            "layer": self.layer,
            "target": None if target is None else target.name,
            "block": None if source is None else source.block,
            "role": None if source is None else source.role,
            "shape": None if source is None else list(source.weight.shape),
            "phi": None if similarity is None else similarity.phi,
            "phi_above_chance": None if similarity is None else similarity.above_chance,
            "weight_cosine": None if similarity is None else similarity.weight_cosine,
            "reason": self.reason,
            "keys": list(self.keys),
        }


def describe_skipped(comparison: Comparison[Any], skipped: Iterable[Skipped]) -> tuple[SkippedLayer, ...]:
    """Add to each skipped part of the adapter what the comparison knows about its layer."""
    described: list[SkippedLayer] = []
    for item in skipped:
        pair, similarity = comparison.layers.get(item.target or "", (None, None))
        source = comparison.source.layers.get(item.layer)
        described.append(SkippedLayer(item, source, None if pair is None else pair.target, similarity))
    return tuple(described)
