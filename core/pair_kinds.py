"""The kinds of pairs of bases that were measured, and how much of a LoRA a transfer and a refinement brought to each.

Every figure is a share of the gain of a LoRA that was trained on the target itself, on small models: the mean over both
families of models and three seeds, for a strong style and for a subtle one. Sources: benchmarks/quality/RESULTS.md for
transfers, benchmarks/refine/RESULTS.md for refinements, and the table "What the verdict says" for the thresholds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from .layers import Base
from .verdict import DRIFTED, Verdict

# Median weight cosines between two measured kinds.
NEAR = 0.998  # near and turbo had 0.999 and more, drifted 0.995 and 0.996
FAR_LEAST = 0.95  # far had 0.964 and 0.968; nothing below was measured
_SMALL_LOSS = 0.05  # share of the LoRA without a partner: 0 on every measured target but the pruned ones
_LARGEST_LOSS = 0.5  # the pruned targets lost 0.37 to 0.40; more was not measured

Layouts = Literal["same", "other width", "other"]


class Gain(NamedTuple):
    """Shares of the gain of a LoRA trained on the target, for a strong and for a subtle style."""

    strong: float
    subtle: float


@dataclass(frozen=True)
class PairKind:
    """A kind of pair. target: the kind of target in words; for a pair that was not measured, the reason.

    transferred: by name of the method; empty if nothing was measured, or if nothing can be transferred. start, refined:
    before and after Refine LoRA with its default settings, in the same runs; start is None for a start from zeros, and
    refined is None if nothing was measured. strength: the best strengths of the default method.
    """

    target: str
    transferred: Mapping[str, Gain]
    start: Gain | None = None
    refined: Gain | None = None
    strength: Gain | None = None

    @property
    def measured(self) -> bool:
        return self.refined is not None


def _unmeasured(why: str) -> PairKind:
    return PairKind(why, {})


_AS_IT_IS = Gain(1.0, 1.0)

KINDS: Mapping[str, PairKind] = {
    "near": PairKind(
        "a light fine-tune of the source",
        {"restore_both": Gain(0.93, 0.79), "copy": Gain(0.87, 0.60)},
        start=Gain(0.92, 0.71),
        refined=Gain(0.98, 0.96),
        strength=_AS_IT_IS,
    ),
    "drifted": PairKind(
        "a fine-tune that has drifted",
        {"restore_both": Gain(0.85, 0.51), "copy": Gain(0.80, 0.18)},
        start=Gain(0.85, 0.51),
        refined=Gain(0.95, 0.83),
        strength=Gain(1.0, 0.75),
    ),
    "far": PairKind(
        "a fine-tune that has drifted far",
        {"restore_both": Gain(0.76, 0.52), "copy": Gain(0.74, 0.43)},
        start=Gain(0.74, 0.43),
        refined=Gain(0.93, 0.84),
        strength=_AS_IT_IS,
    ),
    "turbo": PairKind(
        "a guidance-distilled (turbo) version of the source",
        {"restore_both": Gain(0.98, 0.95), "copy": Gain(0.95, 0.89)},
        start=Gain(0.98, 0.95),
        refined=Gain(1.00, 1.00),
        strength=_AS_IT_IS,
    ),
    "pruned": PairKind(
        "a target without some of the source's blocks",
        {"restore_both": Gain(0.78, 0.71), "copy": Gain(0.78, 0.71)},
        start=Gain(0.79, 0.77),
        refined=Gain(0.97, 0.94),
        strength=_AS_IT_IS,
    ),
    "other seed": PairKind("a model of the same layout from another seed", {}, refined=Gain(0.91, 0.85)),
    "other width": PairKind("a model of another width and seed", {}, refined=Gain(0.91, 0.84)),
    "UNet to transformer": PairKind(
        "a transformer with the source UNet's latents and text encoder", {}, refined=Gain(0.88, 0.68)
    ),
    "transformer to UNet": PairKind(
        "a UNet with the source transformer's latents and text encoder", {}, refined=Gain(0.88, 0.83)
    ),
    "other latents": _unmeasured("the two models have different latents"),
    "other architecture": _unmeasured("the two models have different architectures"),
    "narrower": _unmeasured("the target is narrower than the source"),
    "grown": _unmeasured("the target has blocks that the source lacks"),
    "lost more": _unmeasured("more of the LoRA has no partner in the target than on any measured pair"),
    "lost layers": _unmeasured("layers of the LoRA have no partner, though the target has all blocks"),
    "farther": _unmeasured("the target has drifted farther from the source than any measured pair"),
    "unknown": _unmeasured("the weights of the two bases show nothing"),
}


@dataclass(frozen=True)
class PairFacts:
    """What tells the kind of a pair.

    layouts: of both diffusion models. same_depth: whether both have the same number of blocks. narrower: whether
    channels were matched. same_latents: whether both work on the same latents. unets: whether source and target are
    UNets. distilled: whether the target's name says turbo, lightning or the like, and the source's does not; weights
    do not show it.
    """

    verdict: Verdict
    layouts: Layouts
    same_depth: bool
    narrower: bool
    same_latents: bool
    unets: tuple[bool, bool]
    distilled: bool = False


def kind_of_pair(facts: PairFacts) -> PairKind:
    """The measured kind that a pair belongs to, or the reason why there are no figures for it."""
    cosine = facts.verdict.figures.weight_cosine
    if facts.verdict.word == "refuse":  # even if the few layers that match are alike: unrelated models may share some
        return KINDS[_unrelated_kind(facts)]
    return KINDS["unknown" if cosine is None else _related_kind(facts, cosine)]


def _related_kind(facts: PairFacts, cosine: float) -> str:
    figures = facts.verdict.figures
    lost = 1 - figures.matched if figures.lost is None else figures.lost
    if facts.narrower:
        return "narrower"
    if cosine < FAR_LEAST:
        return "farther"
    if lost > _LARGEST_LOSS:
        return "lost more"
    if not facts.same_depth:
        return "pruned" if lost > _SMALL_LOSS else "grown"
    if lost > _SMALL_LOSS:
        return "lost layers"
    if cosine < DRIFTED:
        return "far"
    if facts.distilled:
        return "turbo"
    return "near" if cosine >= NEAR else "drifted"


def _unrelated_kind(facts: PairFacts) -> str:
    if not facts.same_latents:
        return "other latents"
    if facts.layouts != "other":
        return "other seed" if facts.layouts == "same" else "other width"
    by_unets = {(True, False): "UNet to transformer", (False, True): "transformer to UNet"}
    return by_unets.get(facts.unets, "other architecture")


def compare_layouts(source: Base, target: Base) -> Layouts:
    """Whether two diffusion models have the same layers, or the same layers in other widths. Text encoders do not
    count."""
    sides = [
        {layer.name: layer.weight.shape for layer in base.layers.values() if not layer.text_encoder}
        for base in (source, target)
    ]
    if sides[0] == sides[1]:
        return "same"
    # A slice of a fused weight has its rows in its name, which depend on the width.
    names = [{name.partition("[")[0] for name in side} for side in sides]
    return "other width" if names[0] == names[1] else "other"
