import json

import pytest
import torch

from lora_transfer.core.delta import LowRankDelta
from lora_transfer.core.layers import Base
from lora_transfer.core.matching import (
    Matching,
    map_blocks,
    match_by_blocks,
    match_by_name,
    parse_block_map,
    share_lost,
)
from tests.core.matching.models import BlockBase, Weights, carried, child_of, sdxl, transformers, weights_of

CPU = torch.device("cpu")
PARENT = weights_of(transformers("blocks", 10))
KEPT = {f"blocks.transformer_blocks.{new}": f"blocks.transformer_blocks.{old}" for new, old in enumerate((0, 1, 2, 6))}


def adapter_on(base: Base) -> dict[str, LowRankDelta]:
    generator = torch.Generator().manual_seed(4)
    return {
        name: LowRankDelta(torch.randn(rows, 3, generator=generator), torch.randn(3, columns, generator=generator))
        for name, (rows, columns) in ((one.name, one.weight.matrix_shape) for one in base.layers.values())
    }


def matched(parent: Weights, child: Weights, text: str | None = None) -> tuple[BlockBase, BlockBase, Matching]:
    source, target = BlockBase("parent", parent), BlockBase("child", child)
    names = [list(dict.fromkeys(block for block, _ in weights)) for weights in (parent, child)]
    block_map = map_blocks(source, target, device=CPU) if text is None else parse_block_map(text, *names)
    return source, target, match_by_blocks(source.layers, target.layers, block_map, source.layers)


def parents_delta(target: str) -> str:
    block = next(name for name in KEPT if target.startswith(f"{name}."))
    return KEPT[block] + target[len(block) :]


@pytest.mark.parametrize("method", ["copy", "restore"])
def test_with_the_right_map_a_pruned_child_gets_its_parents_delta_exactly(method: str) -> None:
    source, target, matching = matched(PARENT, child_of(PARENT, KEPT))
    deltas = adapter_on(source)
    assert len(matching.pairs) == len(target.layers)
    for pair in matching.pairs:
        weights = source.read(pair.source), target.read(pair.target)
        moved = carried(method, deltas[pair.source.name], weights)
        expected = deltas[parents_delta(pair.target.name)]
        assert moved.minus(expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("method", ["copy", "restore"])
def test_with_the_same_names_it_gets_the_delta_of_another_block(method: str) -> None:
    source, target = BlockBase("parent", PARENT), BlockBase("child", child_of(PARENT, KEPT))
    deltas = adapter_on(source)
    wrong: set[str] = set()
    for pair in match_by_name(source.layers, target.layers, source.layers).pairs:
        weights = source.read(pair.source), target.read(pair.target)
        moved = carried(method, deltas[pair.source.name], weights)
        expected = deltas[parents_delta(pair.target.name)]
        if moved.minus(expected).norm() > 0.5 * expected.norm():
            wrong.add(pair.target.block)
    assert wrong == {"blocks.transformer_blocks.3"}


def test_every_pair_has_a_reason_and_every_unpaired_layer_names_the_block_most_like_its_own() -> None:
    source, _, matching = matched(PARENT, child_of(PARENT, KEPT, cosine=0.8))
    assert {pair.source.name for pair in matching.pairs} | {one.layer for one in matching.unpaired} == set(
        source.layers
    )
    reasons = {pair.target.name: pair.why for pair in matching.pairs}
    assert reasons["blocks.transformer_blocks.0.ff"].startswith("same name: weight cosine 0.7")
    assert (
        "transformer_blocks.3 is fed by blocks.transformer_blocks.6: weight cosine 0."
        in (reasons["blocks.transformer_blocks.3.ff"])
    )
    for one in matching.unpaired:
        assert "feeds no block of the target" in one.reason
        assert "the block most like it is blocks.transformer_blocks." in one.reason


def test_the_share_of_the_adapter_that_is_lost_with_removed_blocks_is_a_figure() -> None:
    source, _, matching = matched(PARENT, child_of(PARENT, KEPT))
    deltas = adapter_on(source)
    energy = {name: float(delta.dense().square().sum()) for name, delta in deltas.items()}
    lost = sum(energy[one.layer] for one in matching.unpaired) / sum(energy.values())
    assert share_lost(matching, deltas) == pytest.approx(lost, rel=1e-4)
    assert 0.5 < lost < 0.7
    assert share_lost(Matching((), ()), deltas) == pytest.approx(1)
    assert share_lost(matching, {name: delta.scaled(0.0) for name, delta in deltas.items()}) == 0


def test_one_layer_feeds_several_in_a_grown_model() -> None:
    grown = {f"blocks.transformer_blocks.{new}": f"blocks.transformer_blocks.{new // 2}" for new in range(20)}
    _, target, matching = matched(PARENT, child_of(PARENT, grown))
    assert len(matching.pairs) == len(target.layers)
    assert not matching.unpaired
    fed = [pair.target.name for pair in matching.pairs if pair.source.name == "blocks.transformer_blocks.3.ff"]
    assert fed == ["blocks.transformer_blocks.6.ff", "blocks.transformer_blocks.7.ff"]


def test_the_users_map_overrules_the_scores() -> None:
    text = '{"blocks.transformer_blocks.0": "blocks.transformer_blocks.5"}'
    _, _, matching = matched(PARENT, child_of(PARENT, KEPT), text)
    assert {pair.source.block for pair in matching.pairs} == {"blocks.transformer_blocks.5"}
    assert "from the user's block map" in matching.pairs[0].why


def test_layers_that_do_not_fit_the_targets_block_get_a_reason() -> None:
    child = child_of(PARENT, KEPT)
    child.pop(("blocks.transformer_blocks.0", "ff"))
    child["blocks.transformer_blocks.1", "ff"] = torch.zeros(8, 8)
    same = json.dumps({f"blocks.transformer_blocks.{one}": f"blocks.transformer_blocks.{one}" for one in range(2)})
    source, target, matching = matched(PARENT, child, same)
    reasons = {one.layer: one.reason for one in matching.unpaired}
    assert reasons["blocks.transformer_blocks.0.ff"].endswith("which has no ff")
    assert "[32, 24] in the source, [8, 8] in" in reasons["blocks.transformer_blocks.1.ff"]
    beyond = match_by_blocks(source.layers, target.layers, map_blocks(source, target, device=CPU), ["nowhere"])
    assert beyond.unpaired[0].reason == "the source base has no such layer"


def test_another_family_gives_reasons_and_no_pair() -> None:
    source, target, matching = matched(weights_of(sdxl()), weights_of({"double_blocks.0": {"img_attn.qkv": (30, 10)}}))
    assert not matching.pairs
    assert {one.layer for one in matching.unpaired} == set(source.layers)
    assert target.layers
