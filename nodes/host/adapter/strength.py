"""Scales an adapter: writes another strength into its factors."""

from collections import Counter
from dataclasses import dataclass, replace

from ....core.delta import LowRankDelta
from ....core.plan import TransferSettings
from ..base.from_model import HostBase
from .adapter import Adapter, LayerChanges
from .metadata import scaled_metadata
from .read import AdapterOnBase, read_adapter


@dataclass(frozen=True)
class ScaledAdapter:
    """The scaled adapter, and notes on what was lost."""

    adapter: Adapter
    notes: tuple[str, ...] = ()


def scale_adapter(adapter: Adapter, strength: float, base: HostBase) -> ScaledAdapter:
    """An adapter that does at strength 1 what this adapter does at `strength`; for strength 1, this adapter itself.

    Every kind becomes factors, on the layers of the base that it was transferred to, or else of `base`.
    """
    if strength == 1:
        return ScaledAdapter(adapter)
    name = f"{adapter.name} x {strength:g}"
    changes, notes = (adapter.changes, ()) if adapter.changes is not None else _changes_of(adapter, base, name)
    deltas = {layer: delta.scaled(strength) for layer, delta in changes.deltas.items()}
    # A replaced parameter stays as it is: ComfyUI replaces it at any strength.
    vectors = tuple(
        replace(vector, values=vector.values * strength) if vector.kind == "diff" else vector
        for vector in changes.vectors
    )
    changes = replace(changes, deltas=deltas, vectors=vectors)
    metadata = scaled_metadata(adapter.metadata, changes.tensors(), strength)
    return ScaledAdapter(changes.adapter(name, metadata, adapter.origin or adapter.name), notes)


def _changes_of(adapter: Adapter, base: HostBase, name: str) -> tuple[LayerChanges, tuple[str, ...]]:
    """The changes of a file as factors, and notes on what is lost. name: of the adapter, in the notes.

    A layer without factors is cut to Project LoRA's dense_rank.
    """
    fits = adapter.fits or base
    placed = read_adapter(adapter, fits)
    deltas: dict[str, LowRankDelta] = {}
    lost: list[float] = []
    for layer in placed.layers():
        delta = placed.deltas[layer]
        if layer not in placed.factored and layer not in placed.widened():
            delta, share = delta.truncated(TransferSettings.dense_rank)
            lost.append(share)
        deltas[layer] = delta
    changes = LayerChanges(fits, deltas, placed.scales, placed.vectors, placed.widened())
    notes = (f"{name}: {note}" for note in placed.notes)
    return changes, (*_left_out(name, placed), *notes, *note_cut(name, lost))


def _left_out(name: str, placed: AdapterOnBase) -> tuple[str, ...]:
    reasons = Counter(placed.unread.values())
    for skipped in placed.skipped:
        reasons[skipped.reason] += len(skipped.keys)
    return tuple(f"{name} lacks {count} keys: {reason}" for reason, count in reasons.items())


def note_cut(name: str, lost: list[float]) -> tuple[str, ...]:
    """A note on layers that were cut because they have no low-rank form. lost: the share of energy that each loses."""
    if not lost:
        return ()
    return (
        f"{name}: {len(lost)} layers without a low-rank form are cut to rank {TransferSettings.dense_rank}; the worst "
        f"loses {max(lost):.0%} of its change's energy",
    )
