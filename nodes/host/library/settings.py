"""The settings of a library run."""

from dataclasses import dataclass, field
from typing import Any

from ....core.errors import InvalidSetting
from ....core.methods import method_named
from ....core.plan import TransferSettings
from ....core.similarity import Measure
from ....core.subspace import RankRule
from ..adapter.save import SAVED_DTYPES
from ..adapter.write import SPELLINGS
from ..compare import CompareSettings


@dataclass(frozen=True)
class LibrarySettings:
    """What a run does to every file. InvalidSetting for an unknown precision or spelling.

    force: transfers although the verdict on the bases is refuse. metadata: whether files get metadata.
    """

    compare: CompareSettings
    transfer: TransferSettings = field(default_factory=TransferSettings)
    dtype: str = "float16"
    spelling: str = "comfy"
    force: bool = False
    metadata: bool = True

    def __post_init__(self) -> None:
        for name, value, known in (("Precision", self.dtype, SAVED_DTYPES), ("Spelling", self.spelling, SPELLINGS)):
            if value not in known:
                raise InvalidSetting(f"{name}: expected one of {', '.join(known)}, found {value!r}.")

    def as_json(self) -> dict[str, Any]:
        """Everything that the bytes of a result depend on, beside the files."""
        compare = self.compare
        return {
            "measure": compare.measure,
            "rank_rule": compare.rule.kind,
            "rank_rule_amount": compare.rule.amount,
            "match_by": compare.match_by,
            "block_map": compare.block_map,
            **vars(self.transfer),
            "dtype": self.dtype,
            "spelling": self.spelling,
            "force": self.force,
            "metadata": self.metadata,
        }


def measure_for(method: str) -> Measure:
    """The measure that a method needs: subspaces are decomposed only if it reads them anyway."""
    return "subspace" if method_named(method).needs_subspaces else "weight_cosine"


def compare_settings_for(method: str, match_by: str = "blocks", block_map: str = "") -> CompareSettings:
    """The settings by which two bases are compared for a method."""
    return CompareSettings(RankRule("fraction", 0.5), measure_for(method), match_by, block_map)
