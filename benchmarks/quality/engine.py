"""A transfer from end to end, as the nodes do it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from core.delta import LowRankDelta
from core.layers import Base
from core.plan import TransferSettings, modules_of, plan_transfer
from core.resources import Resources
from core.similarity import Comparison
from core.similarity import compare as compare_bases
from core.subspace import RankRule
from core.survey import Survey
from core.survey import survey as survey_bases
from core.transfer import transfer as transfer_deltas

Factors = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TransferJob:
    """A LoRA, its source and its target. The bases are surveyed once, and compared once for each rank rule."""

    source: Base
    target: Base
    lora: Factors
    match_by: str = "blocks"
    _comparisons: dict[RankRule, Comparison[Base]] = field(default_factory=dict[RankRule, Comparison[Base]])

    @cached_property
    def deltas(self) -> dict[str, LowRankDelta]:
        return {key: LowRankDelta(up, down) for key, (up, down) in self.lora.items()}

    @cached_property
    def survey(self) -> Survey:
        """Matched layers and verdict."""
        return survey_bases(
            self.source, self.target, self.deltas, match_by=self.match_by, deltas=self.deltas, using=_ONE_CORE
        )

    def compare(self, rule: RankRule) -> Comparison[Base]:
        """The comparison by a rank rule, which is made once."""
        if rule not in self._comparisons:
            self._comparisons[rule] = compare_bases(
                self.source, self.target, self.survey, rule, deltas=self.deltas, using=_ONE_CORE
            )
        return self._comparisons[rule]

    def transfer(
        self, settings: TransferSettings, rule: RankRule, *, everywhere: bool = False
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Transfers by a method: target layer -> (up, down). The verdict is ignored, so that refused pairs are measured
        too. everywhere: use the method also where the plan would copy."""
        comparison = self.compare(rule)
        plan = plan_transfer(comparison, modules_of(self.deltas), settings)
        if everywhere:
            plan = replace(plan, pairs=tuple(replace(pair, action="transfer") for pair in plan.pairs))
        transferred = transfer_deltas(comparison, plan, self.deltas, _ONE_CORE)
        return {key: (delta.up, delta.down) for key, delta in transferred.deltas.items()}


_ONE_CORE = Resources(torch.device("cpu"), 1)
