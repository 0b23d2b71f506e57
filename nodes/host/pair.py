"""The kind of a pair of bases: which of the measured pairs it is like."""

import re

from ...core.matching import BlockMap
from ...core.pair_kinds import PairFacts, PairKind, compare_layouts, kind_of_pair
from ...core.refine.outlook import measure_size
from ...core.similarity import Comparison
from ...core.survey import Survey
from ...core.verdict import Verdict
from .base.from_model import HostBase

# Words in the names of models that were distilled to need no guidance or fewer steps.
_DISTILLED = re.compile(r"turbo|lightning|hyper|lcm|dmd|schnell|distill", re.IGNORECASE)


def kind_of_survey(source: HostBase, target: HostBase, surveyed: Survey) -> PairKind | None:
    """The kind of a pair before its layers are compared; None without a verdict."""
    return _kind(source, target, surveyed.verdict, surveyed.block_map, bool(surveyed.matching.channels))


def kind_of_comparison(comparison: Comparison[HostBase]) -> PairKind | None:
    """The kind of a compared pair; None without a verdict."""
    verdict, block_map = comparison.verdict, comparison.block_map
    return _kind(comparison.source, comparison.target, verdict, block_map, bool(comparison.channels))


def _kind(
    source: HostBase, target: HostBase, verdict: Verdict | None, block_map: BlockMap | None, narrower: bool
) -> PairKind | None:
    if verdict is None:
        return None
    facts = PairFacts(
        verdict,
        compare_layouts(source, target),
        same_depth=block_map is None or block_map.same_depth,
        narrower=narrower,
        same_latents=source.latents == target.latents,
        unets=(measure_size(source).unet, measure_size(target).unet),
        distilled=bool(_DISTILLED.search(target.name)) and not _DISTILLED.search(source.name),
    )
    return kind_of_pair(facts)
