"""The compact tables that the interactive picture draws."""

import json
from typing import Any

import torch

from lora_transfer.core.delta import LowRankDelta
from lora_transfer.core.plan import TransferSettings, modules_of, plan_transfer
from lora_transfer.core.reports.envelope import Identity
from lora_transfer.core.reports.transfer import Report, transfer_report
from lora_transfer.core.resources import Resources
from lora_transfer.core.similarity import Comparison, compare
from lora_transfer.core.subspace import RankRule
from lora_transfer.core.survey import survey
from lora_transfer.core.transfer import transfer
from tests.core.matching.models import BlockBase, child_of, sdxl, weights_of

PARENT = weights_of(sdxl())
REMOVED = "input_blocks.1.1.transformer_blocks.2"


def pruned_comparison(measure: str = "weight_cosine") -> tuple[Comparison[Any], dict[str, LowRankDelta]]:
    """A model without one of its transformer blocks, and a LoRA on all layers of the parent."""
    names = dict.fromkeys(block for block, _ in PARENT)
    source = BlockBase("parent", PARENT)
    target = BlockBase("child", child_of(PARENT, {name: name for name in names if name != REMOVED}, cosine=0.8))
    generator = torch.Generator().manual_seed(3)
    deltas = {
        name: LowRankDelta(
            torch.randn(layer.weight.matrix_shape[0], 2, generator=generator),
            torch.randn(2, layer.weight.matrix_shape[1], generator=generator),
        )
        for name, layer in source.layers.items()
    }
    surveyed = survey(source, target, deltas, deltas=deltas)
    return compare(source, target, surveyed, RankRule("fraction", 0.5), measure=measure, deltas=deltas), deltas  # pyright: ignore[reportArgumentType]


def report_at(threshold: float, measure: str = "weight_cosine") -> Report:
    comparison, deltas = pruned_comparison(measure)
    plan = plan_transfer(comparison, modules_of(deltas), TransferSettings(method="copy", threshold=threshold))
    result = transfer(comparison, plan, deltas, Resources())
    return transfer_report(comparison, plan, result.layers, Identity("lora", "sha"))


def rows_of(report: Report) -> list[dict[str, Any]]:
    """The rows of the table of layers, with their texts in place of positions."""
    tables = json.loads(json.dumps(report.for_picture(), allow_nan=False))
    rows = [dict(zip(tables["columns"], row, strict=True)) for row in tables["layers"]]
    for row in rows:
        for column in ("source", "target", "role", "shape", "reason"):
            row[column] = None if row[column] is None else tables["texts"][row[column]]
        row["block"] = tables["blocks"][row["block"]]
    return rows


def test_every_layer_of_the_lora_is_there_once() -> None:
    report = report_at(0.75)
    assert sorted(row["source"] for row in rows_of(report)) == sorted(pruned_comparison()[0].source.layers)


def test_a_removed_block_follows_its_predecessor_and_has_a_reason() -> None:
    pairs = report_at(0.75).blocks
    index = next(index for index, pair in enumerate(pairs) if pair.target is None)
    assert (pairs[index].source, pairs[index - 1].source) == (REMOVED, REMOVED.replace(".2", ".1"))
    assert pairs[index].why
    removed = [row for row in rows_of(report_at(0.75)) if row["block"][1] is None]
    assert {(row["decision"], row["score"], row["by_threshold"]) for row in removed} == {("skipped", None, 0)}
    assert len(removed) == 4


def test_a_layer_below_the_threshold_keeps_its_figures_and_its_target() -> None:
    rows = [row for row in rows_of(report_at(0.999)) if row["decision"] == "skipped" and row["target"]]
    assert rows
    assert all(row["by_threshold"] and row["score"] < 0.999 and "is below" in row["reason"] for row in rows)


def test_figures_are_those_of_the_measure() -> None:
    by_cosine = [row for row in rows_of(report_at(0.5)) if row["score"] is not None]
    assert all(row["score"] == row["above_chance"] == row["weight_cosine"] and row["chance"] == 0 for row in by_cosine)
    by_subspace = [row for row in rows_of(report_at(0.1, "subspace")) if row["score"] is not None]
    assert all(0 < row["chance"] < 1 and row["above_chance"] < row["score"] for row in by_subspace)


def test_rows_follow_the_order_of_the_models() -> None:
    rows = rows_of(report_at(0.85))
    names = [row["source"] for row in rows]
    order = {name: index for index, name in enumerate(BlockBase("parent", PARENT).layers)}
    assert [order[name] for name in names] == sorted(order.values())


def test_the_ordinary_report_also_says_what_is_known_of_skipped_layers() -> None:
    skipped = report_at(0.999).as_json()["skipped"]
    assert all(item["block"] is not None and item["shape"] for item in skipped)
    assert any(item["weight_cosine"] for item in skipped)
