"""The one shape that every transfer method has."""

from collections.abc import Callable
from dataclasses import dataclass

from ..delta import LowRankDelta
from ..drift import Drift
from ..errors import InvalidSetting
from ..subspace import Subspace


@dataclass(frozen=True)
class LayerPairBases:
    """What a method may read besides the delta: the leading subspaces of the two weights, and the drift where the delta
    acts (drift.compare_weights).

    A method gets only what it declares. Reading more raises InvalidSetting, which says what to declare.
    """

    subspaces: tuple[Subspace, Subspace] | None = None
    drift: Drift | None = None

    def source_and_target_subspaces(self) -> tuple[Subspace, Subspace]:
        if self.subspaces is None:
            raise InvalidSetting("This method reads subspaces: it must declare needs_subspaces=True.")
        return self.subspaces

    def drift_where_the_delta_acts(self) -> Drift:
        if self.drift is None:
            raise InvalidSetting("This method reads the drift: it must declare needs_drift=True.")
        return self.drift


@dataclass(frozen=True)
class Projected:
    """A method's result: the target's delta, and for how many directions the method is not defined."""

    delta: LowRankDelta
    undefined_directions: int = 0


@dataclass(frozen=True)
class Method:
    """A transfer method: a pure function from the source's delta to the target's, and the facts that the nodes, the
    plan, the verdict and the report derive their behaviour and their texts from.

    source: the paper and its equation, or how it was derived; it is in the report. keeps_whole_delta: False if the
    formula cuts a part of the delta away. Scaling the rest back up then harms more than a random delta does (measured:
    docs/method.md, section 12).
    same_build_only: True if layers of a target of another depth or width are copied instead, because the method harms
    there (measured). drift_undone: the share of the bases' drift that it undoes where the delta acts, for a drift of so
    many times the delta's norm; None if the method leaves the drift alone.
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
