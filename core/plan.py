"""What a transfer will do with every module of an adapter, decided before any weight is read."""

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
from .similarity import Comparison, LayerSimilarity
from .subspace import RankRule

Value = TypeVar("Value")

BelowThreshold = Literal["skip", "copy"]
Rescale = Literal["off", "relative_norm"]
OutRank = Literal["exact", "keep", "cut"]


@dataclass(frozen=True)
class Module:
    """What an adapter holds for one layer: the delta's shape (m, n), and the file's keys that it was read from."""

    layer: str
    shape: tuple[int, int]
    keys: tuple[str, ...]
    exact: bool = True  # False: the delta has no low-rank form and is cut to the settings' dense_rank
    widened: tuple[int, ...] | None = None  # the shape to which it pads its layer with zeros (Flux control LoRAs)


@dataclass(frozen=True)
class TransferSettings:
    """The choices of a transfer, and their defaults.

    threshold: layers whose similarity Phi is below are skipped, or copied (ProLoRA, arXiv 2506.04244, uses 0.8).
    rescale: relative_norm sets ||dW_t|| / ||W_t|| to ||dW_s|| / ||W_s||.
    out_rank: exact keeps the rank that the method yields; keep cuts back to the adapter's own; cut cuts every layer as
    a change without a low-rank form (DoRA, OFT, full differences) always is: to dense_rank, or less where dense_energy,
    a share of ||dW||^2, takes less. What is lost is reported.
    gain: every delta is multiplied by it; more than 1 makes up for what is lost with blocks that the target lacks.
    """

    method: str = DEFAULT.name
    threshold: float = 0.8
    below_threshold: BelowThreshold = "skip"
    rescale: Rescale = "off"
    out_rank: OutRank = "exact"
    dense_rank: int = 64
    dense_energy: float = 1.0
    gain: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise InvalidSetting(f"Threshold: expected a similarity in [0, 1], found {self.threshold}.")
        if self.dense_rank < 1:
            raise InvalidSetting(f"Dense rank: expected at least 1, found {self.dense_rank}.")
        if not 0 < self.dense_energy <= 1:
            raise InvalidSetting(f"Dense energy: expected a share in (0, 1], found {self.dense_energy}.")
        if self.rescale == "relative_norm" and not method_named(self.method).keeps_whole_delta:
            raise InvalidSetting(
                f"Rescale relative_norm with method {self.method}: this method cuts a part of the LoRA away, and "
                "scaling up what is left was measured to do more harm than a random LoRA. Set rescale to off, or "
                f"choose {list_methods(lambda method: method.keeps_whole_delta, 'or')}."
            )


@dataclass(frozen=True)
class PlannedPair:
    """One module's way from source to target: by the chosen method, or copied because the layers are not alike."""

    pair: LayerPair
    similarity: LayerSimilarity
    action: Literal["transfer", "copy"]
    reason: str
    module: Module


@dataclass(frozen=True)
class TransferPlan:
    """Every module of the adapter is either in `pairs` or in `skipped`.

    compared: the figures of all modules whose layers were compared, skipped or not. adapter: its fingerprint, if known.
    """

    pairs: tuple[PlannedPair, ...]
    skipped: tuple[Skipped, ...]
    method: Method
    rank_rule: RankRule
    settings: TransferSettings
    compared: tuple[LayerSimilarity, ...] = ()
    adapter: str | None = None

    def share_lost(self, deltas: Mapping[str, LowRankDelta], channels: Mapping[str, Channels]) -> float:
        """The share of the sum of ||dW||^2 of these deltas, by source layer, that the plan leaves behind."""
        return share_outside([planned.pair for planned in self.pairs], channels, deltas)

    def by_target(self, of_sources: Mapping[str, Value]) -> dict[str, Value]:
        """What is known by source layer, by target layer."""
        pairs = [planned.pair for planned in self.pairs]
        return {pair.target.name: of_sources[pair.source.name] for pair in pairs if pair.source.name in of_sources}

    def why_nothing(self, source: str, target: str) -> str:
        """The sentence for a plan without pairs: the commonest reason, and what to do."""
        if not self.skipped:
            return f"From {source} to {target}: expected layers to transfer, found a LoRA that changes none of them."
        reason, count = Counter(skipped.reason for skipped in self.skipped).most_common(1)[0]
        return (
            f"From {source} to {target}: expected layers to transfer, found none among {len(self.skipped)} modules of "
            f"the LoRA ({count} of them: {reason}). The bases may be unrelated: look at the heatmap before you lower "
            "the threshold or set below_threshold to copy."
        )


def refuse_unless_forced(comparison: Comparison[Any], force: bool) -> None:
    """NothingToTransfer, with the reasons, where the verdict on the bases is to refuse and nobody insists."""
    verdict = comparison.verdict
    if verdict is not None and verdict.word == "refuse" and not force:
        raise NothingToTransfer(
            f"From {comparison.source.name} to {comparison.target.name}: expected related bases, found that "
            f"{'; '.join(verdict.reasons)}. No method that looks at weights alone carries a LoRA between such bases. "
            "Switch force on to do it all the same and look at the damage."
        )


def modules_of(deltas: Mapping[str, LowRankDelta]) -> list[Module]:
    """The modules of deltas that were read from no file: each delta's key is its layer's name."""
    return [Module(layer, delta.shape, (layer,)) for layer, delta in deltas.items()]


def plan_transfer(
    comparison: Comparison[Any], modules: Sequence[Module], settings: TransferSettings, adapter: str | None = None
) -> TransferPlan:
    """Decide what happens to every module, from shapes and similarities alone.

    adapter: the fingerprint of the adapter that the modules are of; None where they were read from no file.
    """
    planned: list[PlannedPair] = []
    skipped: list[Skipped] = []
    fed: dict[str, list[tuple[LayerPair, LayerSimilarity]]] = {}
    for pair, similarity in comparison.layers.values():
        fed.setdefault(pair.source.name, []).append((pair, similarity))
    for module in modules:
        decisions = [_decide(module, *one, comparison, settings) for one in fed.get(module.layer, [])]
        kept = [one for one in decisions if isinstance(one, PlannedPair)]
        # A file's key is counted once, though a grown target takes its delta several times.
        planned += [
            one if index == 0 else replace(one, module=replace(module, keys=())) for index, one in enumerate(kept)
        ]
        left = [one for one in decisions if isinstance(one, Skipped)]
        skipped += [replace(one, keys=one.keys if index == 0 and not kept else ()) for index, one in enumerate(left)]
        if not decisions:
            skipped.append(_never_compared(module, comparison))
    figures = tuple(similarity for one in modules for _, similarity in fed.get(one.layer, []))
    method = method_named(settings.method)
    return TransferPlan(tuple(planned), tuple(skipped), method, comparison.rank_rule, settings, figures, adapter)


_NOT_COMPARED = (
    "the similarity was computed without this layer: connect the same adapter to Compute Subspace Similarity"
)


def _never_compared(module: Module, comparison: Comparison[Any]) -> Skipped:
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
        return PlannedPair(pair, similarity, "copy", "it widens its layer with new inputs: copied as it is", module)
    if module.shape != pair.source.weight.matrix_shape:
        found, expected = list(module.shape), list(pair.source.weight.matrix_shape)
        return Skipped(module.layer, f"its delta has shape {found}, the source layer {expected}", module.keys)
    if pair.source.text_encoder and similarity.drift == 0:
        return PlannedPair(pair, similarity, "copy", "the text encoders are identical here: passed through", module)
    by_subspace = comparison.measure == "subspace"
    score, called = similarity.score(comparison.measure), "similarity" if by_subspace else "weight cosine"
    if score is None:
        reason = f"{called} carries no information here: the subspaces are complete or the weight is zero"
        return _by_method(pair, similarity, reason, module, comparison, settings)
    if score >= settings.threshold:
        reason = f"{called} {score:.3f} is at least {settings.threshold:g}"
        return _by_method(pair, similarity, reason, module, comparison, settings)
    reason = f"{called} {score:.3f} is below {settings.threshold:g}"
    if pair.target.name != pair.source.name:
        reason += f" for {pair.target.name}"
    if settings.below_threshold == "copy":
        return PlannedPair(pair, similarity, "copy", reason, module)
    return Skipped(module.layer, reason, module.keys)


def _by_method(
    pair: LayerPair,
    similarity: LayerSimilarity,
    reason: str,
    module: Module,
    comparison: Comparison[Any],
    settings: TransferSettings,
) -> PlannedPair:
    """A pair that is alike enough: carried by the method, or copied where this method was measured to harm."""
    if not method_named(settings.method).same_build_only or _same_build(pair, comparison):
        return PlannedPair(pair, similarity, "transfer", reason, module)
    why = f"{reason}, but the target has other blocks or channels: its layers were retrained to do without, and undoing"
    return PlannedPair(pair, similarity, "copy", f"{why} that was measured to harm", module)


def _same_build(pair: LayerPair, comparison: Comparison[Any]) -> bool:
    same_depth = comparison.block_map is None or comparison.block_map.same_depth
    return same_depth and pair.target.name not in comparison.channels
