import json

import torch

from lora_transfer.core.delta import LowRankDelta
from lora_transfer.core.depth_picture import depth_picture
from lora_transfer.core.map_picture import block_map_picture
from lora_transfer.core.plan import Module, TransferSettings, plan_transfer
from lora_transfer.core.report import Identity, similarity_report, transfer_report
from lora_transfer.core.similarity import compare
from lora_transfer.core.subspace import RankRule
from lora_transfer.core.survey import Survey, survey
from lora_transfer.core.transfer import transfer
from tests.core.bases import MemoryBase


def model(blocks: list[int], seed: int = 0) -> MemoryBase:
    """A model of blocks with two layers each, and one layer outside of them; block i is always the same."""
    weights = {"out": torch.randn(20, 24, generator=torch.Generator().manual_seed(seed + 999))}
    for place, index in enumerate(blocks):
        generator = torch.Generator().manual_seed(seed + index)
        weights |= {f"blocks.{place}.{role}": torch.randn(60, 60, generator=generator) for role in ("q", "k")}
    return MemoryBase("model", weights)


def lora_on(base: MemoryBase) -> dict[str, LowRankDelta]:
    generator = torch.Generator().manual_seed(3)
    shapes = {name: layer.weight.matrix_shape for name, layer in base.layers.items()}
    return {
        name: LowRankDelta(torch.randn(m, 2, generator=generator), torch.randn(2, n, generator=generator))
        for name, (m, n) in shapes.items()
    }


def looked_at(source: MemoryBase, target: MemoryBase, **how: str) -> Survey:
    return survey(source, target, source.layers, deltas=lora_on(source), **how)  # pyright: ignore[reportArgumentType]


def test_a_pruned_child_is_matched_judged_and_what_is_lost_is_told() -> None:
    source, target = model([0, 1, 2, 3]), model([0, 2, 3])
    found = looked_at(source, target)
    assert [match.source for match in found.block_map.matches if match.target.startswith("blocks")] == [
        "blocks.0",
        "blocks.2",
        "blocks.3",
    ]
    assert found.verdict is not None
    assert found.verdict.word == "works"
    assert 0.1 < (found.verdict.figures.lost or 0) < 0.4
    by_name = looked_at(source, target, match_by="names")
    assert by_name.verdict is not None
    assert by_name.verdict.word == "refuse"


def test_by_names_nothing_is_scored_and_no_more_than_a_sample_is_read() -> None:
    source, target = model(list(range(12))), model(list(range(12)))
    found = looked_at(source, target, match_by="names")
    assert source.reads.total() == 16
    assert len(found.matching.pairs) == len(source.layers)
    assert found.block_map.measure == "names"
    assert block_map_picture(found.scores, found.block_map, "a", "b").shape[2] == 3


def test_a_given_map_goes_before_what_the_weights_say() -> None:
    source, target = model([0, 1, 2]), model([0, 1, 2])
    found = looked_at(source, target, given=json.dumps({"blocks.0": "blocks.2"}))
    assert {(pair.source.name, pair.target.name) for pair in found.matching.pairs} == {
        ("blocks.2.q", "blocks.0.q"),
        ("blocks.2.k", "blocks.0.k"),
    }


def test_without_a_layer_to_carry_there_is_nothing_to_judge() -> None:
    assert survey(model([0]), model([0]), []).verdict is None


def test_a_grown_child_gets_a_delta_for_every_copy_and_a_key_counts_once() -> None:
    source, target = model([0, 1, 2]), model([0, 0, 1, 2, 2])
    deltas = lora_on(source)
    comparison = compare(source, target, looked_at(source, target), RankRule("fraction", 0.5), deltas=deltas)
    modules = [Module(name, delta.shape, (f"{name}.up", f"{name}.down")) for name, delta in deltas.items()]
    plan = plan_transfer(modules, comparison, TransferSettings("restore", threshold=0.5))
    moved = transfer(plan, deltas, source, target, channels=comparison.channels, drifts=comparison.drifts)
    fed = {planned.pair.target.name: planned.pair.source.name for planned in plan.pairs}
    assert fed["blocks.1.q"] == "blocks.0.q"
    assert fed["blocks.4.k"] == "blocks.2.k"
    assert set(moved.deltas) == set(target.layers)
    for name, delta in moved.deltas.items():
        assert torch.allclose(delta.dense(), deltas[fed[name]].dense(), atol=1e-4)
    report = transfer_report(comparison, plan, moved.layers, Identity("lora", ""), lost=plan.share_lost(deltas))
    assert report.counts()["keys"] == report.counts()["keys_transferred"] == 2 * len(modules)
    assert report.lost == 0
    assert report.summary().startswith("works; layers: 11 transferred")
    assert report.as_json()["verdict"]["word"] == "works"
    assert plan.by_target(dict.fromkeys(deltas, 7)) == dict.fromkeys(target.layers, 7)
    assert depth_picture(similarity_report(comparison, None, 0.0)).shape[2] == 3
