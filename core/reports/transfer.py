"""The account of a run: JSON with a schema version, the contract with the front end and with whoever reads it later."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..layers import Skipped
from ..matching import BlockMap
from ..plan import TransferPlan
from ..refine.outlook import Outlook
from ..similarity import Comparison, LayerSimilarity
from ..vectors import Vector
from ..verdict import Verdict
from .envelope import Identity, dumps, envelope
from .layer import LayerReport

_LISTS = ("layers", "vectors", "skipped", "unread", "block_map")


@dataclass(frozen=True)
class Report:
    """A whole run. Every key of the adapter's file is in a layer, in `vectors` (biases and norms, copied), in `skipped`
    or in `unread` (key: reason).

    compared: the figures of every layer that was compared, those included that were then skipped; empty where these are
    the figures of `layers`. verdict, block_map: what the survey of the bases found. lost: share of the adapter's sum of
    ||dW||^2 that is not carried over, of the modules that have factors. refine: whether refining is worth its cost.
    """

    kind: Literal["similarity", "transfer"]
    source: Identity
    target: Identity
    adapter: Identity | None
    settings: Mapping[str, Any]
    layers: tuple[LayerReport, ...]
    skipped: tuple[Skipped, ...]
    unread: Mapping[str, str] = field(default_factory=dict[str, str])
    vectors: tuple[Vector, ...] = ()
    notes: tuple[str, ...] = ()
    verdict: Verdict | None = None
    block_map: BlockMap | None = None
    lost: float | None = None
    seconds: float = 0.0
    compared: tuple[LayerSimilarity, ...] = ()
    refine: Outlook | None = None

    def counts(self) -> dict[str, int]:
        """Layers by fate and the file's keys by fate; keys_transferred + keys_skipped + keys_unread = keys."""
        by_decision = {
            decision: sum(layer.decision == decision for layer in self.layers)
            for decision in ("compared", "transferred", "copied")
        }
        transferred = sum(len(one.keys) for one in (*self.layers, *self.vectors))
        skipped = sum(len(layer.keys) for layer in self.skipped)
        return {
            **by_decision,
            "skipped": len(self.skipped),
            "vectors": len(self.vectors),
            "equal_to_copy": sum(bool(layer.equals_copy) for layer in self.layers),
            "keys": transferred + skipped + len(self.unread),
            "keys_transferred": transferred,
            "keys_skipped": skipped,
            "keys_unread": len(self.unread),
        }

    def means(self) -> dict[str, float | None]:
        """Plain means over the layers that have the figure: of similarity over all that were compared, skipped ones
        too, or it would look the higher the more a threshold leaves out."""
        compared = self.compared or tuple(layer.similarity for layer in self.layers)
        return {
            "phi": _mean([one.phi for one in compared]),
            "phi_above_chance": _mean([one.above_chance for one in compared]),
            "weight_cosine": _mean([one.weight_cosine for one in compared]),
            "drift": _mean([one.drift for one in compared]),
            "norm_ratio": _mean([layer.norm_ratio for layer in self.layers]),
            "cosine_to_copy": _mean([layer.cosine_to_copy for layer in self.layers]),
        }

    def summary(self) -> str:
        """The run in one line, for a person; a second one on refining, where that was looked at."""
        counts, means = self.counts(), self.means()
        words = [f"{counts[fate]} {fate}" for fate in ("compared", "transferred", "copied", "skipped") if counts[fate]]
        if counts["keys"]:
            words.append(f"{counts['keys_transferred']} of {counts['keys']} keys read and carried over")
        figures = {"similarity": means["phi"], "above chance": means["phi_above_chance"]}
        if self.settings["measure"] == "weight_cosine":
            figures = {"weight cosine": means["weight_cosine"]}
        words += [f"{name} {value:.2f}" for name, value in figures.items() if value is not None]
        if self.lost:
            words.append(f"{self.lost:.0%} of the LoRA's change left behind")
        said = ", ".join(["layers: " + words[0], *words[1:]]) if words else "no layers"
        said = said if self.verdict is None else f"{self.verdict.word}; {said}"
        return said if self.refine is None else f"{said}\n{self.refine.sentence()}"

    def as_json(self) -> dict[str, Any]:
        return envelope(
            self,
            self.kind,
            verdict=None if self.verdict is None else self.verdict.as_json(),
            block_map=None if self.block_map is None else self.block_map.as_json(),
            lost=self.lost,
            refine=None if self.refine is None else self.refine.as_json(),
            counts=self.counts(),
            means=self.means(),
            layers=[layer.as_json() for layer in self.layers],
            vectors=[{"parameter": one.parameter, "keys": list(one.keys)} for one in self.vectors],
            skipped=[{"layer": one.layer, "reason": one.reason, "keys": list(one.keys)} for one in self.skipped],
            unread=[{"key": key, "reason": reason} for key, reason in self.unread.items()],
        )

    def provenance(self) -> dict[str, Any]:
        """What a saved adapter says of its origin: the report without its lists."""
        return {key: value for key, value in self.as_json().items() if key not in _LISTS}

    def dumps(self) -> str:
        """The report as indented JSON text."""
        return dumps(self.as_json())


def similarity_report(
    comparison: Comparison[Any], adapter: Identity | None, seconds: float, refine: Outlook | None = None
) -> Report:
    """The report of two bases compared."""
    return Report(
        kind="similarity",
        source=Identity.of(comparison.source),
        target=Identity.of(comparison.target),
        notes=_notes(comparison),
        adapter=adapter,
        settings=_compared_by(comparison),
        layers=tuple(LayerReport(pair, figures, "compared", pair.why) for pair, figures in comparison.layers.values()),
        skipped=tuple(comparison.unpaired.values()),
        verdict=comparison.verdict,
        block_map=comparison.block_map,
        lost=None if comparison.verdict is None else comparison.verdict.figures.lost,
        seconds=seconds,
        refine=refine,
    )


def transfer_report(
    comparison: Comparison[Any],
    plan: TransferPlan,
    layers: tuple[LayerReport, ...],
    adapter: Identity,
    *,
    vectors: tuple[Vector, ...] = (),
    skipped: tuple[Skipped, ...] = (),
    unread: Mapping[str, str] | None = None,
    notes: tuple[str, ...] = (),
    lost: float | None = None,
    seconds: float = 0.0,
) -> Report:
    """The report of an adapter carried over; `skipped` are the parts of it that never reached the plan."""
    return Report(
        kind="transfer",
        source=Identity.of(comparison.source),
        target=Identity.of(comparison.target),
        notes=tuple(dict.fromkeys((*_notes(comparison), *notes))),
        adapter=adapter,
        settings={**_compared_by(comparison), **vars(plan.settings), "method_source": plan.method.source},
        layers=layers,
        skipped=(*plan.skipped, *skipped),
        unread=unread or {},
        vectors=vectors,
        verdict=comparison.verdict,
        block_map=comparison.block_map,
        lost=lost,
        seconds=seconds,
        compared=plan.compared,
    )


def _notes(comparison: Comparison[Any]) -> tuple[str, ...]:
    return (
        *(f"{base.name}: {note}" for base in (comparison.source, comparison.target) for note in base.notes),
        *comparison.notes,
    )


def _compared_by(comparison: Comparison[Any]) -> dict[str, Any]:
    rule = comparison.rank_rule
    return {"measure": comparison.measure, "rank_rule": rule.kind, "rank_rule_amount": rule.amount}


def _mean(figures: list[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return sum(known) / len(known) if known else None
