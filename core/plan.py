"""Plans a transfer: decides what happens to every module of an adapter before any weight is read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from .delta import LowRankDelta
from .errors import InvalidSetting, NothingToTransfer
from .layers import LayerPair, Skipped
from .matching import share_outside
from .matching.channels import Channels
from .methods import DEFAULT, Method, list_methods, method_named
from .similarity import THRESHOLDS, Comparison, LayerSimilarity
from .subspace import RankRule

Value = TypeVar("Value")

BelowThreshold = Literal["skip", "copy"]
Rescale = Literal["off", "relative_norm"]
OutRank = Literal["exact", "keep", "cut"]


BY_MEASURE = -1.0  # a threshold that leaves the choice to the measure; 0 transfers all layers but negative cosines


@dataclass(frozen=True)
class Module:
    """What an adapter contains for one layer: the shape (m, n) of its delta, and the keys that it was read from."""

    layer: str
    shape: tuple[int, int]
    keys: tuple[str, ...]
    exact: bool = True  # False: the delta has no low-rank form, and its rank is cut to dense_rank
    widened: tuple[int, ...] | None = None  # the shape to which it pads its layer (Flux control LoRAs)


@dataclass(frozen=True)
class TransferSettings:
    """The settings of a transfer, and their defaults. InvalidSetting if one is out of range.

    threshold: layers with a similarity below it are skipped or copied. BY_MEASURE: the measure's own.
    rescale: relative_norm sets ||dW_t|| / ||W_t|| to ||dW_s|| / ||W_s||.
    out_rank: exact keeps the rank that the method returns. keep cuts it to the adapter's rank. cut limits every layer
    to dense_rank, or to the smallest rank that holds dense_energy, a share of ||dW||^2. Kinds without a low-rank form
    (DoRA, OFT, full differences) are always cut in this way. The report shows the loss.
    gain: factor on every delta; 1 measured best or nearly best, also where the target lacks blocks.
    """

    method: str = DEFAULT.name
    threshold: float = BY_MEASURE
    below_threshold: BelowThreshold = "skip"
    rescale: Rescale = "off"
    out_rank: OutRank = "exact"
    dense_rank: int = 64
    dense_energy: float = 1.0
    gain: float = 1.0

    def __post_init__(self) -> None:
        if self.threshold != BY_MEASURE and not 0 <= self.threshold <= 1:
            raise InvalidSetting(f"Threshold: expected a similarity in [0, 1], found {self.threshold}.")
        if self.dense_rank < 1:
            raise InvalidSetting(f"Dense rank: expected at least 1, found {self.dense_rank}.")
        if not 0 < self.dense_energy <= 1:
            raise InvalidSetting(f"Dense energy: expected a share in (0, 1], found {self.dense_energy}.")
        if self.rescale == "relative_norm" and not method_named(self.method).keeps_whole_delta:
            raise InvalidSetting(
                f"Rescale relative_norm with method {self.method}: this method removes a part of the LoRA, and scaling "
                "up the rest did more harm than a random LoRA in our measurements. Set rescale to off, or "
                f"choose {list_methods(lambda method: method.keeps_whole_delta, 'or')}."
            )


@dataclass(frozen=True)
class PlannedPair:
    """One planned module: the pair of layers, whether it is transferred or copied, and the reason.

    by_threshold: whether another threshold could have changed the decision.
    """

    pair: LayerPair
    similarity: LayerSimilarity
    action: Literal["transfer", "copy"]
    reason: str
    module: Module
    by_threshold: bool = False


@dataclass(frozen=True)
class TransferPlan:
    """Every module of the adapter is in `pairs` or in `skipped`.

    compared: the similarities of all modules whose layers were compared, including skipped ones. adapter: its
    fingerprint, if known.
    """

    pairs: tuple[PlannedPair, ...]
    skipped: tuple[Skipped, ...]
    method: Method
    rank_rule: RankRule
    settings: TransferSettings
    compared: tuple[LayerSimilarity, ...] = ()
    adapter: str | None = None

    def share_lost(self, deltas: Mapping[str, LowRankDelta], channels: Mapping[str, Channels]) -> float:
        """The share of the sum of ||dW||^2 of these deltas (by source layer) that the plan does not transfer."""
        return share_outside([planned.pair for planned in self.pairs], channels, deltas)

    def by_target(self, by_source: Mapping[str, Value]) -> dict[str, Value]:
        """Convert a mapping by source layer to one by target layer."""
        pairs = [planned.pair for planned in self.pairs]
        return {pair.target.name: by_source[pair.source.name] for pair in pairs if pair.source.name in by_source}

    def why_nothing(self, source: str, target: str, advice: str) -> str:
        """The error text for a plan without pairs: the most common reason, and what to do."""
        if not self.skipped:
            return f"From {source} to {target}: expected layers to transfer, found a LoRA that changes no layer."
        reason, count = Counter(skipped.reason for skipped in self.skipped).most_common(1)[0]
        return (
            f"From {source} to {target}: expected layers to transfer, found none among {len(self.skipped)} modules of "
            f"the LoRA ({count} of them: {reason}). {advice}"
        )


def refuse_unless_forced(comparison: Comparison[Any], force: bool, advice: str) -> None:
    """Raise NothingToTransfer with the reasons and the advice if the verdict on the bases is "refuse" and `force` is
    off."""
    verdict = comparison.verdict
    if verdict is not None and verdict.word == "refuse" and not force:
        raise NothingToTransfer(
            f"From {comparison.source.name} to {comparison.target.name}: expected related bases, found that "
            f"{'; '.join(verdict.reasons)}. No method that uses weights alone can transfer a LoRA between such bases. "
            f"{advice}"
        )


def modules_of(deltas: Mapping[str, LowRankDelta]) -> list[Module]:
    """Modules for deltas that come from no file: the only key of each is its layer's name."""
    return [Module(layer, delta.shape, (layer,)) for layer, delta in deltas.items()]


def plan_transfer(
    comparison: Comparison[Any], modules: Sequence[Module], settings: TransferSettings, adapter: str | None = None
) -> TransferPlan:
    """Decide what happens to every module, from shapes and similarities alone.

    adapter: the fingerprint of the adapter that the modules belong to; None if they come from no file.
    """
    settings = replace(settings, threshold=_threshold(comparison, settings))
    planned: list[PlannedPair] = []
    skipped: list[Skipped] = []
    pairs_of: dict[str, list[tuple[LayerPair, LayerSimilarity]]] = {}
    for pair, similarity in comparison.layers.values():
        pairs_of.setdefault(pair.source.name, []).append((pair, similarity))
    for module in modules:
        decisions = [_decide(module, *pair, comparison, settings) for pair in pairs_of.get(module.layer, [])]
        accepted = [decision for decision in decisions if isinstance(decision, PlannedPair)]
        rejected = [decision for decision in decisions if isinstance(decision, Skipped)]
        # The report counts a file's keys once, even if a grown target uses the delta in several layers.
        planned += [*accepted[:1], *(replace(pair, module=replace(module, keys=())) for pair in accepted[1:])]
        first_rejected = [] if accepted else rejected[:1]
        skipped += [*first_rejected, *(replace(pair, keys=()) for pair in rejected[len(first_rejected) :])]
        if not decisions:
            skipped.append(_skip_uncompared(module, comparison))
    figures = tuple(similarity for module in modules for _, similarity in pairs_of.get(module.layer, []))
    method = method_named(settings.method)
    return TransferPlan(tuple(planned), tuple(skipped), method, comparison.rank_rule, settings, figures, adapter)


_NOT_COMPARED = (
    "the similarity was computed without this layer; connect the same adapter to Compute Subspace Similarity"
)


def _skip_uncompared(module: Module, comparison: Comparison[Any]) -> Skipped:
    unpaired = comparison.unpaired.get(module.layer)
    return Skipped(module.layer, _NOT_COMPARED if unpaired is None else unpaired.reason, module.keys)


def _decide(
    module: Module,
    pair: LayerPair,
    similarity: LayerSimilarity,
    comparison: Comparison[Any],
    settings: TransferSettings,
) -> PlannedPair | Skipped:
    if module.widened is not None and pair.target.name not in comparison.channels:
        return PlannedPair(pair, similarity, "copy", "it adds inputs to its layer: copied unchanged", module)
    if module.shape != pair.source.weight.matrix_shape:
        layer_shape = list(pair.source.weight.matrix_shape)
        reason = f"its delta has shape {list(module.shape)}, the source layer {layer_shape}"
        return Skipped(module.layer, reason, module.keys)
    if pair.source.text_encoder and similarity.drift == 0:
        return PlannedPair(
            pair, similarity, "copy", "the text encoders have the same weights here: copied unchanged", module
        )
    by_subspace, threshold = comparison.measure == "subspace", _threshold(comparison, settings)
    score, label = similarity.score(comparison.measure), "similarity" if by_subspace else "weight cosine"
    if score is None:
        reason = f"{label} shows nothing here: the subspaces are complete, or the weight is zero"
        return _by_method(pair, similarity, reason, module, comparison, settings)
    if score >= threshold:
        reason = f"{label} {score:.3f} is at least {threshold:g}"
        return replace(_by_method(pair, similarity, reason, module, comparison, settings), by_threshold=True)
    reason = f"{label} {score:.3f} is below {threshold:g}"
    if pair.target.name != pair.source.name:
        reason += f" for {pair.target.name}"
    if settings.below_threshold == "copy":
        return PlannedPair(pair, similarity, "copy", reason, module, by_threshold=True)
    return Skipped(module.layer, reason, module.keys, pair.target.name)


def _threshold(comparison: Comparison[Any], settings: TransferSettings) -> float:
    return THRESHOLDS[comparison.measure] if settings.threshold == BY_MEASURE else settings.threshold


def _by_method(
    pair: LayerPair,
    similarity: LayerSimilarity,
    reason: str,
    module: Module,
    comparison: Comparison[Any],
    settings: TransferSettings,
) -> PlannedPair:
    """Plan a pair that is alike enough: transferred by the method, or copied where the method does harm (measured)."""
    if not method_named(settings.method).same_build_only or _same_build(pair, comparison):
        return PlannedPair(pair, similarity, "transfer", reason, module)
    why = (
        f"{reason}, but the target lacks blocks or channels: its layers were retrained to make up for them, and "
        "undoing that does harm"
    )
    return PlannedPair(pair, similarity, "copy", why, module)


def _same_build(pair: LayerPair, comparison: Comparison[Any]) -> bool:
    same_depth = comparison.block_map is None or comparison.block_map.same_depth
    return same_depth and pair.target.name not in comparison.channels
