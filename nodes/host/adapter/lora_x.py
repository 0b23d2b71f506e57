"""Reads from an adapter's metadata whether it was trained inside the singular subspaces of a base (LoRA-X)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....core.errors import InvalidSetting
from ....core.files.json_text import read_json
from ....core.refine.parameterisation import Parameterisation
from ....core.subspace import RankRule
from ..base.from_model import HostBase
from .adapter import Adapter
from .metadata import PROVENANCE

_KINDS = ("fixed", "fraction", "energy")
_INSIDE: tuple[Parameterisation, ...] = ("inside", "diagonal")


@dataclass(frozen=True)
class LoraX:
    """What an adapter says of its training. parameterisation: "inside" or "diagonal". rule: of the base's singular
    directions. base: the name of the base, and doubt: why it may be another one than the source; None if its content
    is the same."""

    parameterisation: Parameterisation
    rule: RankRule
    base: str
    doubt: str | None


def find_lora_x(adapter: Adapter, source: HostBase) -> LoraX | None:
    """What the adapter says if it was trained inside the subspaces of this source, else None. The metadata of a file
    are not trusted: an entry that cannot be read counts as none."""
    entry = _read_entry(adapter.metadata)
    base, rule = entry.get("base"), _read_rule(entry.get("rank_rule"))
    parameterisation = next((name for name in _INSIDE if name == entry.get("parameterisation")), None)
    if parameterisation is None or rule is None:
        return None
    if not isinstance(base, dict) or not isinstance(name := base.get("name"), str):
        return None
    if base.get("fingerprint") == source.fingerprint:
        return LoraX(parameterisation, rule, name, None)
    if name != source.name:
        return None
    return LoraX(parameterisation, rule, name, f"it was trained on another file or version of {name}")


def _read_entry(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        provenance: Any = read_json(metadata.get(PROVENANCE, "{}"))
    except ValueError:
        return {}
    trained = provenance.get("trained") if isinstance(provenance, dict) else None
    return trained if isinstance(trained, dict) else {}


def _read_rule(entry: Any) -> RankRule | None:
    kind, amount = (entry.get("kind"), entry.get("amount")) if isinstance(entry, dict) else (None, None)
    if kind not in _KINDS or isinstance(amount, bool) or not isinstance(amount, (int, float)):
        return None
    try:
        return RankRule(kind, amount) if math.isfinite(amount) else None
    except InvalidSetting:
        return None
