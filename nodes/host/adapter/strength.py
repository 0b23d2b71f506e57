"""An adapter at another strength, as factors of its own."""

from collections import Counter
from dataclasses import dataclass, replace

from ....core.delta import LowRankDelta
from ....core.plan import TransferSettings
from ..base.from_model import HostBase
from .adapter import Adapter, fingerprint_of
from .metadata import scaled_metadata
from .place import PlacedAdapter, place
from .write import to_state_dict


@dataclass(frozen=True)
class Scaled:
    """The adapter, and what of it is not as it was."""

    adapter: Adapter
    notes: tuple[str, ...] = ()


def scaled(adapter: Adapter, strength: float, base: HostBase) -> Scaled:
    """The adapter whose strength 1 is that strength of the given one; at 1 it is the given one itself. Every kind
    becomes factors, on the layers of the base that it was carried to, or else of `base`; one that has none is cut to
    Project LoRA's dense_rank."""
    if strength == 1:
        return Scaled(adapter)
    fits = adapter.fits or base
    placed = place(adapter, fits)
    deltas: dict[str, LowRankDelta] = {}
    lost: list[float] = []
    for layer in placed.layers():
        delta = placed.deltas[layer]
        if layer not in placed.factored and layer not in placed.widened():
            delta, share = delta.truncated(TransferSettings.dense_rank)
            lost.append(share)
        deltas[layer] = delta.scaled(strength)
    # What is set in place of a parameter, ComfyUI sets at any strength.
    vectors = [replace(one, values=one.values * strength) if one.kind == "diff" else one for one in placed.vectors]
    tensors = to_state_dict(deltas, placed.scales, fits, vectors=vectors, widened=placed.widened())
    metadata = scaled_metadata(adapter.metadata, tensors, strength)
    name = f"{adapter.name} x {strength:g}"
    made = Adapter(name, fingerprint_of(tensors), metadata, tensors=tensors, fits=fits)
    return Scaled(made, (*_left_out(name, placed), *told_cut(name, lost)))


def _left_out(name: str, placed: PlacedAdapter) -> tuple[str, ...]:
    reasons = Counter(placed.unread.values())
    for one in placed.skipped:
        reasons[one.reason] += len(one.keys)
    return tuple(f"{name} lacks {count} keys: {reason}" for reason, count in reasons.items())


def told_cut(name: str, lost: list[float]) -> tuple[str, ...]:
    """What cutting layers without a low-rank form cost, given the share of energy that each loses."""
    if not lost:
        return ()
    return (
        f"{name}: {len(lost)} layers without a low-rank form are cut to rank {TransferSettings.dense_rank}; the worst "
        f"loses {max(lost):.0%} of its change's energy",
    )
