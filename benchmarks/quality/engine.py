"""A transfer from end to end, as the nodes make it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from core.delta import LowRankDelta
from core.layers import Base
from core.plan import TransferSettings, modules_of, plan_transfer
from core.resources import Resources
from core.similarity import Comparison, compare
from core.subspace import RankRule
from core.survey import Survey, survey
from core.transfer import transfer

Factors = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Journey:
    """A LoRA's way from one base to another: surveyed once, compared once for each rank rule, carried by any method."""

    source: Base
    target: Base
    lora: Factors
    match_by: str = "blocks"
    _compared: dict[RankRule, Comparison[Base]] = field(default_factory=dict[RankRule, Comparison[Base]])

    @cached_property
    def deltas(self) -> dict[str, LowRankDelta]:
        return {key: LowRankDelta(up, down) for key, (up, down) in self.lora.items()}

    @cached_property
    def surveyed(self) -> Survey:
        return survey(self.source, self.target, self.deltas, match_by=self.match_by, deltas=self.deltas, using=_ALONE)

    def compared(self, rule: RankRule) -> Comparison[Base]:
        if rule not in self._compared:
            self._compared[rule] = compare(
                self.source, self.target, self.surveyed, rule, deltas=self.deltas, using=_ALONE
            )
        return self._compared[rule]

    def carried(
        self, settings: TransferSettings, rule: RankRule, *, everywhere: bool = False
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """up and down by target layer. The verdict is not asked here: what it refuses is measured too. everywhere: the
        method is used where the plan would rather copy, as well."""
        comparison = self.compared(rule)
        plan = plan_transfer(comparison, modules_of(self.deltas), settings)
        if everywhere:
            plan = replace(plan, pairs=tuple(replace(pair, action="transfer") for pair in plan.pairs))
        transferred = transfer(comparison, plan, self.deltas, _ALONE)
        return {key: (delta.up, delta.down) for key, delta in transferred.deltas.items()}


_ALONE = Resources(torch.device("cpu"), 1)
