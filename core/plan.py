"""What a transfer will do with every module of an adapter, decided before any weight is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .errors import InvalidSetting
from .layers import LayerPair, Skipped
from .methods import Method, method_named
from .similarity import LayerSimilarity
from .subspace import RankRule


@dataclass(frozen=True)
class Module:
    """What an adapter holds for one layer: the delta's shape (m, n), and the file's keys that it was read from."""

    layer: str
    shape: tuple[int, int]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class TransferSettings:
    """The choices of a transfer.

    threshold: layers whose similarity Phi is below are skipped, or copied (ProLoRA, arXiv 2506.04244, uses 0.8).
    rescale: relative_norm sets ||dW_t|| / ||W_t|| to ||dW_s|| / ||W_s||.
    out_rank: exact keeps the rank that the method yields; keep cuts back to the adapter's own, with the loss reported.
    """

    method: str
    rank_rule: RankRule
    threshold: float
    below_threshold: Literal["skip", "copy"]
    rescale: Literal["off", "relative_norm"]
    out_rank: Literal["exact", "keep"]

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise InvalidSetting(f"Threshold: expected a similarity in [0, 1], found {self.threshold}.")
        if self.rescale == "relative_norm" and not method_named(self.method).keeps_whole_delta:
            raise InvalidSetting(
                f"Rescale relative_norm with method {self.method}: this method cuts a part of the LoRA away, and blowing "
                "up what is left was measured to do more harm than a random LoRA. Set rescale to off, or take "
                "prolora_full, rotate, restore or copy."
            )


@dataclass(frozen=True)
class PlannedPair:
    """One module's way from source to target: by the chosen method, or copied because the layers are not alike."""

    pair: LayerPair
    similarity: LayerSimilarity
    action: Literal["transfer", "copy"]
    reason: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class TransferPlan:
    """Every module of the adapter is either in `pairs` or in `skipped`."""

    pairs: tuple[PlannedPair, ...]
    skipped: tuple[Skipped, ...]
    method: Method
    settings: TransferSettings


def plan_transfer(
    modules: Sequence[Module],
    pairs: Mapping[str, tuple[LayerPair, LayerSimilarity]],
    unpaired: Mapping[str, Skipped],
    settings: TransferSettings,
) -> TransferPlan:
    """Decide for every module, from shapes and similarities alone; `pairs` and `unpaired` are keyed by source layer."""
    planned: list[PlannedPair] = []
    skipped: list[Skipped] = []
    for module in modules:
        if module.layer in pairs:
            decision = _decide(module, *pairs[module.layer], settings)
        else:
            reason = unpaired[module.layer].reason if module.layer in unpaired else _NOT_COMPARED
            decision = Skipped(module.layer, reason, module.keys)
        if isinstance(decision, Skipped):
            skipped.append(decision)
        else:
            planned.append(decision)
    return TransferPlan(tuple(planned), tuple(skipped), method_named(settings.method), settings)


_NOT_COMPARED = "the similarity was computed without this layer: connect the same adapter to Compute Subspace Similarity"


def _decide(
    module: Module, pair: LayerPair, similarity: LayerSimilarity, settings: TransferSettings
) -> PlannedPair | Skipped:
    if module.shape != pair.source.weight.matrix_shape:
        found, expected = list(module.shape), list(pair.source.weight.matrix_shape)
        return Skipped(module.layer, f"its delta has shape {found}, the source layer {expected}", module.keys)
    phi = similarity.phi
    if phi is None:
        reason = "similarity carries no information here: the subspaces are complete or the weight is zero"
        return PlannedPair(pair, similarity, "transfer", reason, module.keys)
    if phi >= settings.threshold:
        reason = f"similarity {phi:.3f} is at least {settings.threshold:g}"
        return PlannedPair(pair, similarity, "transfer", reason, module.keys)
    reason = f"similarity {phi:.3f} is below {settings.threshold:g}"
    if settings.below_threshold == "copy":
        return PlannedPair(pair, similarity, "copy", reason, module.keys)
    return Skipped(module.layer, reason, module.keys)
