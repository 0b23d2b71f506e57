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
    """A method's result: the target's delta, and how many directions it had to leave out as undefined."""

    delta: LowRankDelta
    undefined_directions: int = 0


@dataclass(frozen=True)
class Method:
    """A transfer method: a pure function from the source's delta to the target's, and what has to be known of it.

    keeps_whole_delta: False where the formula cuts a part of the delta away by design. Its norm must then not be
    scaled back up: measured, that does more harm than a random delta (method.md 6b). same_build_only: True where the
    layers of a target of another depth or width are to be copied instead, because there it was measured to harm.
    """

    name: str
    function: Callable[[LowRankDelta, LayerPairBases], Projected]
    summary: str
    source: str
    keeps_whole_delta: bool
    needs_subspaces: bool = False
    needs_drift: bool = False
    same_build_only: bool = False
