"""The baseline: the same as loading the old LoRA on the new base."""

from ..delta import LowRankDelta
from .method import LayerPairBases, Method, Projected


def copy(delta: LowRankDelta, _: LayerPairBases) -> Projected:
    """dW_t = dW_s."""
    return Projected(delta)


COPY = Method(
    name="copy",
    function=copy,
    summary="The delta as it is: the same as loading the old LoRA on the new base.",
    source="the baseline of both papers",
    keeps_whole_delta=True,
)
