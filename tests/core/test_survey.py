import json
from dataclasses import replace

import torch

from lora_transfer.core.delta import LowRankDelta
from lora_transfer.core.pictures.block_map import block_map_picture
from lora_transfer.core.pictures.depth import depth_picture
from lora_transfer.core.plan import Module, TransferSettings, plan_transfer
from lora_transfer.core.reports.envelope import Identity
from lora_transfer.core.reports.transfer import similarity_report, transfer_report
from lora_transfer.core.similarity import compare
from lora_transfer.core.subspace import RankRule
from lora_transfer.core.survey import Survey, survey
from lora_transfer.core.transfer import transfer
from lora_transfer.core.vectors import Vector, plan_vectors
from tests.core.bases import CountingBase


def model(blocks: list[int], seed: int = 0) -> CountingBase:
    """A model of blocks with two layers each, and one layer outside of them; block i is always the same."""
    weights = {"out": torch.randn(20, 24, generator=torch.Generator().manual_seed(seed + 999))}
    for place, index in enumerate(blocks):
        generator = torch.Generator().manual_seed(seed + index)
        weights |= {f"blocks.{place}.{role}": torch.randn(60, 60, generator=generator) for role in ("q", "k")}
    return CountingBase("model", weights)


def lora_on(base: CountingBase) -> dict[str, LowRankDelta]:
    generator = torch.Generator().manual_seed(3)
    shapes = {name: layer.weight.matrix_shape for name, layer in base.layers.items()}
    return {
        name: LowRankDelta(torch.randn(m, 2, generator=generator), torch.randn(2, n, generator=generator))
        for name, (m, n) in shapes.items()
    }


def looked_at(source: CountingBase, target: CountingBase, **how: str) -> Survey:
    return survey(source, target, source.layers, deltas=lora_on(source), **how)  # pyright: ignore[reportArgumentType]


def test_a_pruned_child_is_matched_and_judged_with_the_lost_share() -> None:
    source, target = model([0, 1, 2, 3]), model([0, 2, 3])
    found = looked_at(source, target)
    assert [match.source for match in found.block_map.matches if match.target.startswith("blocks")] == [
        "blocks.0",
        "blocks.2",
        "blocks.3",
    ]
    assert found.verdict is not None
    assert found.verdict.word == "risky"
    assert 0.1 < (found.verdict.figures.lost or 0) < 0.4
    by_name = looked_at(source, target, match_by="names")
    assert by_name.verdict is not None
    assert by_name.verdict.word == "refuse"


def test_matching_by_name_scores_nothing_and_reads_only_a_sample() -> None:
    source, target = model(list(range(12))), model(list(range(12)))
    found = looked_at(source, target, match_by="names")
    assert source.reads.total() == 16
    assert len(found.matching.pairs) == len(source.layers)
    assert found.block_map.measure == "names"
    assert block_map_picture(found.scores, found.block_map, "a", "b").shape[2] == 3


def test_the_users_map_overrules_the_weights() -> None:
    source, target = model([0, 1, 2]), model([0, 1, 2])
    found = looked_at(source, target, block_map_text=json.dumps({"blocks.0": "blocks.2"}))
    assert {(pair.source.name, pair.target.name) for pair in found.matching.pairs} == {
        ("blocks.2.q", "blocks.0.q"),
        ("blocks.2.k", "blocks.0.k"),
    }


def test_without_a_requested_layer_there_is_no_verdict() -> None:
    assert survey(model([0]), model([0]), []).verdict is None


def test_a_grown_child_gets_a_delta_for_every_copy_and_a_key_counts_once() -> None:
    source, target = model([0, 1, 2]), model([0, 0, 1, 2, 2])
    deltas = lora_on(source)
    comparison = compare(source, target, looked_at(source, target), RankRule("fraction", 0.5), deltas=deltas)
    modules = [Module(name, delta.shape, (f"{name}.up", f"{name}.down")) for name, delta in deltas.items()]
    plan = plan_transfer(comparison, modules, TransferSettings("restore", threshold=0.5))
    transferred = transfer(comparison, plan, deltas)
    fed = {planned.pair.target.name: planned.pair.source.name for planned in plan.pairs}
    assert fed["blocks.1.q"] == "blocks.0.q"
    assert fed["blocks.4.k"] == "blocks.2.k"
    assert set(transferred.deltas) == set(target.layers)
    for name, delta in transferred.deltas.items():
        assert torch.allclose(delta.dense(), deltas[fed[name]].dense(), atol=1e-4)
    report = transfer_report(
        comparison, plan, transferred.layers, Identity("lora", ""), lost=plan.share_lost(deltas, {})
    )
    assert report.counts()["keys"] == report.counts()["keys_transferred"] == 2 * len(modules)
    assert report.lost == 0
    assert report.summary().startswith("works; layers: 11 transferred")
    assert report.as_json()["verdict"]["word"] == "works"
    assert plan.by_target(dict.fromkeys(deltas, 7)) == dict.fromkeys(target.layers, 7)
    assert depth_picture(similarity_report(comparison, None, 0.0)).shape[2] == 3


def test_biases_and_norms_follow_their_blocks() -> None:
    found = looked_at(model([0, 1, 2]), model([0, 2, 2])).block_map
    ones, parameters = torch.ones(4), {f"net.blocks.{place}.norm": (4,) for place in range(3)} | {"net.out_norm": (4,)}
    names = [*(f"net.blocks.{index}.norm" for index in range(3)), "net.out_norm"]
    vectors = [Vector(name, "diff", ones * place, (f"{name} key",)) for place, name in enumerate(names)]
    copied, skipped = plan_vectors(vectors, parameters, "target", found)
    assert {one.parameter: float(one.values[0]) for one in copied} == {
        "net.blocks.0.norm": 0.0,
        "net.blocks.1.norm": 2.0,
        "net.blocks.2.norm": 2.0,
        "net.out_norm": 3.0,
    }
    assert [one.layer for one in skipped] == ["net.blocks.1.norm"]
    keys = [key for one in (*copied, *skipped) for key in one.keys]
    assert sorted(keys) == sorted(key for vector in vectors for key in vector.keys)


def test_a_target_below_the_threshold_is_listed_even_if_another_uses_the_delta() -> None:
    source, target = model([0, 1]), model([0, 0, 1])
    strange = target.layers["blocks.1.q"]
    target.weights = {**target.weights, "blocks.1.q": torch.randn(strange.weight.shape)}
    given = json.dumps({"blocks.0": "blocks.0", "blocks.1": "blocks.0", "blocks.2": "blocks.1", "out": "out"})
    comparison = compare(source, target, looked_at(source, target, block_map_text=given), RankRule("fraction", 0.5))
    modules = [Module(name, layer.weight.matrix_shape, (name,)) for name, layer in source.layers.items()]
    plan = plan_transfer(comparison, modules, TransferSettings("copy", threshold=0.9))
    (left,) = plan.skipped
    assert left.layer == "blocks.0.q"
    assert left.reason.endswith("is below 0.9 for blocks.1.q")
    assert left.keys == ()


def test_unrelated_bases_with_a_shared_text_encoder_are_still_refused() -> None:
    source, target = model([0, 1]), model([5, 6], seed=50)
    shared = {f"clip.{index}": torch.randn(40, 40) for index in range(6)}
    bases = [CountingBase("base", {**one.weights, **shared}) for one in (source, target)]
    for base in bases:
        base.layers = {
            name: replace(layer, text_encoder=name.startswith("clip")) for name, layer in base.layers.items()
        }
    judged = looked_at(*bases).verdict
    assert judged is not None
    assert judged.word == "refuse"


def test_a_lora_without_factors_is_judged_by_the_count_of_its_layers() -> None:
    source, target = model(list(range(10))), model([0])
    judged = survey(source, target, source.layers, deltas={}).verdict
    assert judged is not None
    assert judged.figures.lost is None
    assert judged.figures.matched < 0.2
