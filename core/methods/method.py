"""The type of all transfer methods, and what a method may read."""

from collections.abc import Callable
from dataclasses import dataclass

from ..delta import LowRankDelta
from ..drift import Drift
from ..errors import InvalidSetting
from ..subspace import Subspace


@dataclass(frozen=True)
class LayerPairBases:
    """What a method may read besides the delta.

    subspaces: the leading subspaces of the source and target weights. drift: the drift where the delta acts
    (drift.compare_weights). A method gets only what it declares; reading more raises InvalidSetting.
    """

    subspaces: tuple[Subspace, Subspace] | None = None
    drift: Drift | None = None

    def source_and_target_subspaces(self) -> tuple[Subspace, Subspace]:
        if self.subspaces is None:
            raise InvalidSetting("This method reads subspaces, and must declare needs_subspaces=True.")
        return self.subspaces

    def drift_where_the_delta_acts(self) -> Drift:
        if self.drift is None:
            raise InvalidSetting("This method reads the drift, and must declare needs_drift=True.")
        return self.drift


@dataclass(frozen=True)
class Projected:
    """A method's result: the target's delta (m, n), and the number of directions for which the method is undefined."""

    delta: LowRankDelta
    undefined_directions: int = 0


@dataclass(frozen=True)
class Method:
    """A transfer method: a pure function from the source's delta to the target's, and facts about it. The nodes, the
    plan, the verdict and the report derive their behaviour and texts from these facts.

    source: the paper and its equation, or how the method was derived; the report shows it. keeps_whole_delta: False if
    the formula removes a part of the delta. Scaling the rest up then does more harm than a random delta does (measured:
    docs/method.md, section 12). same_build_only: True if layers are copied when the target has another depth or width,
    because the method does harm there (measured). drift_undone: maps ||drift|| / ||delta|| to the share of the drift
    that the method undoes where the delta acts; None if the method does not change the drift.
    """

    name: str
    function: Callable[[LowRankDelta, LayerPairBases], Projected]
    summary: str
    source: str
    keeps_whole_delta: bool
    needs_subspaces: bool = False
    needs_drift: bool = False
    same_build_only: bool = False
    drift_undone: Callable[[float], float] | None = None
