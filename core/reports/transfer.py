"""Reports a comparison or a transfer as JSON, which is the contract with the front end, and as a sentence."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..layers import Skipped
from ..matching import BlockMap
from ..plan import TransferPlan
from ..refine.outlook import Outlook
from ..similarity import Comparison, LayerSimilarity
from ..subspace import RankRule
from ..vectors import Vector
from ..verdict import Verdict, Word, judge_loss, most_severe
from .envelope import Identity, dumps, envelope
from .layer import LayerReport, SkippedLayer, describe_skipped
from .picture import BlockPair, pair_blocks, picture_tables

# Not in a saved file: long lists, and what would make the bytes of two equal runs differ.
_NOT_IN_FILES = ("layers", "vectors", "skipped", "unread", "block_map", "seconds")
_ROUNDING = 0.005  # drift of a base against itself in another precision: bfloat16 0.002 at most, a fine-tune 0.02


@dataclass(frozen=True)
class Report:
    """A comparison or a transfer. Every key of the adapter's file is in a layer, in `vectors` (copied biases and
    norms), in `skipped` or in `unread` (key -> reason).

    blocks: every block of both bases, in the order of the models. compared: the similarities of all compared layers,
    including those that were then skipped; empty if they are those of `layers`. verdict, block_map: results of the
    survey. lost: share of the adapter's sum of ||dW||^2, over modules with factors, that is not transferred.
    unread_share: share of the adapter's keys that change the diffusion model and are unread. doubts: sentences on why
    the adapter may not belong to the source. refine: whether refining is worth its cost.
    """

    kind: Literal["similarity", "transfer"]
    source: Identity
    target: Identity
    adapter: Identity | None
    settings: Mapping[str, Any]
    layers: tuple[LayerReport, ...]
    skipped: tuple[SkippedLayer, ...]
    unread: Mapping[str, str] = field(default_factory=dict[str, str])
    vectors: tuple[Vector, ...] = ()
    notes: tuple[str, ...] = ()
    verdict: Verdict | None = None
    block_map: BlockMap | None = None
    lost: float | None = None
    unread_share: float = 0.0
    doubts: tuple[str, ...] = ()
    seconds: float = 0.0
    compared: tuple[LayerSimilarity, ...] = ()
    refine: Outlook | None = None
    blocks: tuple[BlockPair, ...] = ()

    @property
    def word(self) -> Word | None:
        """The verdict on the bases, or a more severe word if more was lost or the adapter may not belong to the source;
        None without a verdict."""
        if self.verdict is None:
            return None
        doubtful: Word = "risky" if self.doubts else "works"
        counts = self.counts()
        lost = self.lost if self.lost is not None else counts["keys_skipped"] / max(1, counts["keys"])
        return most_severe(self.verdict.word, judge_loss(lost), judge_loss(self.unread_share), doubtful)

    def is_between_equal_bases(self) -> bool:
        """Whether every layer has the same weights in both bases, but for rounding, and none was skipped."""
        layers = [(layer.pair, layer.similarity.drift) for layer in self.layers]
        equal = all(pair.source.name == pair.target.name and drift is not None for pair, drift in layers)
        return bool(layers) and equal and not self.skipped and all((drift or 0) < _ROUNDING for _, drift in layers)

    def below_threshold(self) -> list[float]:
        """The scores of the compared layers that lie below the threshold."""
        scores = [similarity.score(self.settings["measure"]) for similarity in self.compared]
        return [score for score in scores if score is not None and score < self.settings["threshold"]]

    def counts(self) -> dict[str, int]:
        """How many layers and keys were transferred, skipped and so on; keys_transferred + keys_skipped + keys_unread =
        keys."""
        by_decision = {
            decision: sum(layer.decision == decision for layer in self.layers)
            for decision in ("compared", "transferred", "copied")
        }
        transferred = sum(len(item.keys) for item in (*self.layers, *self.vectors))
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
        """Means over the layers that have the figure. Those of similarities include skipped layers; without them a
        higher threshold would show a higher similarity."""
        compared = self.compared or tuple(layer.similarity for layer in self.layers)
        return {
            "phi": _mean([similarity.phi for similarity in compared]),
            "phi_above_chance": _mean([similarity.above_chance for similarity in compared]),
            "weight_cosine": _mean([similarity.weight_cosine for similarity in compared]),
            "drift": _mean([similarity.drift for similarity in compared]),
            "norm_ratio": _mean([layer.norm_ratio for layer in self.layers]),
            "cosine_to_copy": _mean([layer.cosine_to_copy for layer in self.layers]),
        }

    def summary(self) -> str:
        """The run in one line, and a second line on refining if `refine` is set."""
        text = self.counted() if self.word is None else f"{self.word}; {self.counted()}"
        return text if self.refine is None else f"{text}\n{self.refine.sentence()}"

    def counted(self) -> str:
        """How many layers and keys were transferred, and how similar the layers are."""
        counts, means = self.counts(), self.means()
        decisions = ("compared", "transferred", "copied", "skipped")
        parts = [f"{counts[decision]} {decision}" for decision in decisions if counts[decision]]
        if counts["keys"]:
            parts.append(f"{counts['keys_transferred']} of {counts['keys']} keys transferred")
        figures = {"similarity": means["phi"], "above chance": means["phi_above_chance"]}
        if self.settings["measure"] == "weight_cosine":
            figures = {"weight cosine": means["weight_cosine"]}
        parts += [f"{name} {value:.2f}" for name, value in figures.items() if value is not None]
        if self.lost:
            parts.append(f"{self.lost:.0%} of the LoRA's change lost")
        return ", ".join(["layers: " + parts[0], *parts[1:]]) if parts else "no layers"

    def as_json(self) -> dict[str, Any]:
        return envelope(
            self,
            self.kind,
            word=self.word,
            doubts=list(self.doubts),
            verdict=None if self.verdict is None else self.verdict.as_json(),
            block_map=None if self.block_map is None else self.block_map.as_json(),
            lost=self.lost,
            refine=None if self.refine is None else self.refine.as_json(),
            counts=self.counts(),
            means=self.means(),
            layers=[layer.as_json() for layer in self.layers],
            vectors=[{"parameter": vector.parameter, "keys": list(vector.keys)} for vector in self.vectors],
            skipped=[item.as_json() for item in self.skipped],
            unread=[{"key": key, "reason": reason} for key, reason in self.unread.items()],
        )

    def provenance(self) -> dict[str, Any]:
        """The report without its lists and its time, for the metadata of a saved adapter."""
        return {key: value for key, value in self.as_json().items() if key not in _NOT_IN_FILES}

    def for_picture(self) -> dict[str, Any]:
        """The part of the report that the interactive picture draws, in a compact form (picture.py): it is stored in
        the user's workflow. 800 layers take about 150 kB."""
        return envelope(
            self,
            self.kind,
            verdict=None if self.verdict is None else self.verdict.word,
            counts=self.counts(),
            **picture_tables(self.blocks, self.layers, self.skipped, self.settings["measure"]),
        )

    def dumps(self) -> str:
        """The report as indented JSON text."""
        return dumps(self.as_json())


def similarity_report(
    comparison: Comparison[Any],
    adapter: Identity | None,
    seconds: float,
    refine: Outlook | None = None,
    doubts: tuple[str, ...] = (),
) -> Report:
    """The report of a comparison. refine: whether refining is worth its cost. doubts: see Report."""
    return Report(
        kind="similarity",
        source=Identity.of(comparison.source),
        target=Identity.of(comparison.target),
        notes=_notes(comparison),
        adapter=adapter,
        settings=_comparison_settings(comparison, comparison.rank_rule),
        layers=tuple(LayerReport(pair, figures, "compared", pair.why) for pair, figures in comparison.layers.values()),
        skipped=describe_skipped(comparison, comparison.unpaired.values()),
        verdict=comparison.verdict,
        block_map=comparison.block_map,
        lost=None if comparison.verdict is None else comparison.verdict.figures.lost,
        doubts=doubts,
        seconds=seconds,
        refine=refine,
        blocks=pair_blocks(comparison),
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
    unread_share: float = 0.0,
    doubts: tuple[str, ...] = (),
    seconds: float = 0.0,
) -> Report:
    """The report of a transfer. skipped: parts of the adapter that were skipped before the plan was made."""
    settings = {**_comparison_settings(comparison, plan.rank_rule), **vars(plan.settings)}
    return Report(
        kind="transfer",
        source=Identity.of(comparison.source),
        target=Identity.of(comparison.target),
        notes=tuple(dict.fromkeys((*_notes(comparison), *notes))),
        adapter=adapter,
        settings={**settings, "method_source": plan.method.source},
        layers=layers,
        skipped=describe_skipped(comparison, (*plan.skipped, *skipped)),
        unread=unread or {},
        vectors=vectors,
        verdict=comparison.verdict,
        block_map=comparison.block_map,
        lost=lost,
        unread_share=unread_share,
        doubts=doubts,
        seconds=seconds,
        compared=plan.compared,
        blocks=pair_blocks(comparison),
    )


def _notes(comparison: Comparison[Any]) -> tuple[str, ...]:
    return (
        *(f"{base.name}: {note}" for base in (comparison.source, comparison.target) for note in base.notes),
        *comparison.notes,
    )


def _comparison_settings(comparison: Comparison[Any], rule: RankRule) -> dict[str, Any]:
    return {"measure": comparison.measure, "rank_rule": rule.kind, "rank_rule_amount": rule.amount}


def _mean(figures: list[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return sum(known) / len(known) if known else None
