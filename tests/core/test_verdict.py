import dataclasses
import json

import pytest
import torch

from lora_transfer.core.delta import LowRankDelta
from lora_transfer.core.matching import Matching, map_blocks, match_by_blocks, match_by_channels, match_by_name
from lora_transfer.core.verdict import PairFigures, Verdict, judge, judge_bases, sample_pairs
from tests.core.bases import CountingBase
from tests.core.matching.models import BlockBase, Weights, child_of, sdxl, weights_of

CPU = torch.device("cpu")
PARENT = weights_of(sdxl())
ALL = {block: block for block, _ in PARENT}
GOOD = PairFigures(sampled=16, matched=1.0, weight_cosine=0.99, similarity=0.95, drift=0.1)


def judged(parent: Weights, child: Weights, *, by_blocks: bool = True, lora: bool = False) -> Verdict:
    source, target = BlockBase("parent", parent), BlockBase("child", child)
    if by_blocks:
        block_map = map_blocks(source, target, device=CPU)
        matching = match_by_blocks(source.layers, target.layers, block_map, source.layers)
    else:
        matching = match_by_name(source.layers, target.layers, source.layers)
    deltas = {
        name: LowRankDelta(torch.ones(rows, 1), torch.ones(1, columns))
        for name, (rows, columns) in ((one.name, one.weight.matrix_shape) for one in source.layers.values())
    }
    return judge_bases(source, target, matching, deltas if lora else None, device=CPU)


@pytest.mark.parametrize("by_blocks", [True, False])
def test_a_close_relative_works_a_distant_relative_is_risky_and_an_unrelated_base_is_refused(by_blocks: bool) -> None:
    def word(child: Weights) -> str:
        return judged(PARENT, child, by_blocks=by_blocks).word

    assert word(child_of(PARENT, ALL, cosine=0.99)) == "works"
    assert word(child_of(PARENT, ALL, cosine=0.7)) == "risky"
    assert word(weights_of(sdxl(), seed=5)) == "refuse"


def test_a_child_that_lost_many_blocks_is_not_promised_to_work() -> None:
    shallow = {block: block for block in ALL if "blocks.0" in block}
    found = judged(PARENT, child_of(PARENT, shallow), lora=True)
    assert found.word == "risky"
    assert found.figures.lost == pytest.approx(sum_of_lost(shallow), rel=1e-3)
    assert "of the LoRA's energy has a partner in the target; the rest is lost" in found.reasons[0]


def sum_of_lost(kept: dict[str, str]) -> float:
    sizes = {key: weight.numel() for key, weight in PARENT.items()}
    return sum(size for (block, _), size in sizes.items() if block not in kept) / sum(sizes.values())


def test_the_reasons_contain_the_figures() -> None:
    found = judged(PARENT, child_of(PARENT, ALL, cosine=0.99), lora=True)
    text = " | ".join(found.reasons)
    assert "weight cosine 0.9" in text
    assert "above chance" in text
    assert "differ from the source's by" in text
    assert "times the LoRA's own change" in text
    assert json.loads(json.dumps(found.as_json()))["figures"]["sampled"] == 16
    assert found.figures.drift == pytest.approx(0.14, abs=0.03)
    far = judge(dataclasses.replace(GOOD, drift_against_lora=4.0))
    near = judge(dataclasses.replace(GOOD, drift_against_lora=0.2))
    assert "undoes about 6% of that" in far.reasons[-1]
    assert "undoes about 96% of that" in near.reasons[-1]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "works"),
        ({"weight_cosine": 0.5}, "risky"),
        ({"weight_cosine": 0.05}, "refuse"),
        ({"weight_cosine": None}, "risky"),
        ({"lost": 0.05}, "works"),
        ({"lost": 0.3}, "risky"),
        ({"lost": 0.4}, "risky"),
        ({"lost": 0.7}, "risky"),
        ({"lost": 0.95}, "refuse"),
        ({"matched": 0.4}, "risky"),
        ({"matched": 0.4, "lost": 0.01}, "works"),
        ({"sampled": 0, "matched": 0.0, "weight_cosine": None, "drift": None}, "refuse"),
        ({"matched": 0.0, "weight_cosine": 0.01}, "refuse"),
    ],
)
def test_the_verdict_is_the_most_severe_that_any_figure_calls_for(changes: dict[str, float | None], word: str) -> None:
    found = judge(dataclasses.replace(GOOD, **changes))  # pyright: ignore[reportArgumentType]
    assert found.word == word
    assert found.reasons


def test_a_refusal_for_a_loss_does_not_call_the_bases_close_because_of_the_few_layers_that_match() -> None:
    found = judge(dataclasses.replace(GOOD, lost=0.99, matched=0.02))
    assert found.word == "refuse"
    assert "relative" not in found.summary()


def test_bases_without_anything_in_common_are_refused_without_a_crash() -> None:
    stranger = judged(PARENT, weights_of(sdxl(), seed=5))
    assert "no layer has a partner" in stranger.reasons[0]
    assert "the target was not made from the source" in stranger.reasons[1]
    other = {("double_blocks.0", "img_attn.qkv"): torch.ones(30, 10)}
    for matching_by_blocks in (True, False):
        assert judged(PARENT, other, by_blocks=matching_by_blocks).word == "refuse"
    assert judged({}, {}).word == "refuse"
    dead = {key: torch.zeros_like(weight) for key, weight in PARENT.items()}
    assert judged(PARENT, dead).word == "refuse"
    assert judged(PARENT, dead, by_blocks=False).word == "risky"


def test_a_narrower_child_is_judged_by_the_channels_that_it_kept() -> None:
    generator = torch.Generator().manual_seed(2)
    wide = {"a.q": torch.randn(40, 30, generator=generator), "a.k": torch.randn(44, 30, generator=generator)}
    source, target = CountingBase("wide", wide), CountingBase("narrow", {name: one[::2] for name, one in wide.items()})
    by_name = match_by_name(source.layers, target.layers, source.layers)
    matching = match_by_channels(source, target, by_name, device=CPU)
    deltas = {"a.q": LowRankDelta(torch.ones(40, 1), torch.ones(1, 30))}
    found = judge_bases(source, target, matching, deltas, device=CPU)
    assert found.word == "works"
    assert found.figures.weight_cosine == pytest.approx(1, abs=1e-4)
    assert found.figures.drift_against_lora == pytest.approx(0, abs=1e-4)


def test_the_sample_is_spread_over_the_model_and_over_the_roles() -> None:
    shapes = {f"role{index}": (4, 4) for index in range(8)}
    base = BlockBase("base", weights_of({f"blocks.{index}": shapes for index in range(20)}))
    pairs = match_by_name(base.layers, base.layers, base.layers).pairs
    sample = sample_pairs(pairs)
    assert len({pair.source.name for pair in sample}) == 16
    assert {pair.source.role for pair in sample} == set(shapes)
    assert len({pair.source.block for pair in sample}) > 12
    assert sample_pairs(pairs[:3]) == list(pairs[:3])


def test_the_verdict_reads_only_its_sample_and_reports_its_progress() -> None:
    shapes = {f"role{index}": (6, 6) for index in range(8)}
    base = BlockBase("base", weights_of({f"blocks.{index}": shapes for index in range(20)}))
    steps: list[int] = []
    matching: Matching = match_by_name(base.layers, base.layers, base.layers)
    judge_bases(base, base, matching, device=CPU, progress=lambda done, total, layer: steps.append(done))
    assert sum(base.reads.values()) == 32
    assert steps == list(range(17))
