"""Names of blocks are confirmed from a few rows only where all scores would pair the same blocks."""

import pytest
import torch

from lora_transfer.core.layers import Layer, Rows, WeightRef
from lora_transfer.core.matching import BlockScores, score_blocks
from lora_transfer.core.matching.namesakes import sample_rows
from tests.core.matching.models import BlockBase, Weights, child_of, perturbed, sdxl, transformers, weights_of

CPU = torch.device("cpu")
NAMES = [f"blocks.transformer_blocks.{index}" for index in range(12)]
WIDE = {name: {"q": (300, 400), "k": (300, 400), "up": (600, 300)} for name in NAMES}  # larger than what is read


def scored(parent: Weights, child: Weights) -> BlockScores:
    return score_blocks(BlockBase("parent", parent), BlockBase("child", child), device=CPU)


def sources(parent: Weights, child: Weights) -> list[str | None]:
    return [match.source for match in scored(parent, child).best_map().matches]


@pytest.mark.parametrize("cosine", [0.99, 0.8, 0.4])
def test_a_relative_with_the_same_blocks_is_confirmed_by_a_sample(cosine: float) -> None:
    parent = weights_of(WIDE)
    scores = scored(parent, child_of(parent, {name: name for name in NAMES}, cosine=cosine))
    assert scores.sampled
    assert [match.source for match in scores.best_map().matches] == NAMES
    assert torch.allclose(scores.table().diagonal(), torch.full((12,), cosine), atol=0.05)


@pytest.mark.parametrize("first", range(len(NAMES) - 1))
def test_two_exchanged_blocks_are_noticed_wherever_they_are(first: int) -> None:
    parent = weights_of(WIDE)
    order = list(range(len(NAMES)))
    order[first], order[first + 1] = order[first + 1], order[first]
    child = child_of(parent, {name: NAMES[origin] for name, origin in zip(NAMES, order, strict=True)}, cosine=0.9)
    scores = scored(parent, child)
    assert not scores.sampled
    assert [match.source for match in scores.best_map("free").matches] == [NAMES[origin] for origin in order]


@pytest.mark.parametrize("changed", [0, 5, 11])
def test_a_block_of_another_model_is_noticed_wherever_it_is(changed: int) -> None:
    parent, stranger = weights_of(WIDE), weights_of(WIDE, seed=9)
    child = child_of(parent, {name: name for name in NAMES}, cosine=0.9)
    child |= {key: weight for key, weight in stranger.items() if key[0] == NAMES[changed]}
    scores = scored(parent, child)
    assert not scores.sampled
    assert [match.source for match in scores.best_map().matches if match.source is None] == [None]


def test_a_fine_tune_of_one_block_keeps_all_names() -> None:
    parent, generator = weights_of(WIDE), torch.Generator().manual_seed(4)
    child = {key: perturbed(weight, 0.7, generator) if key[0] == NAMES[3] else weight for key, weight in parent.items()}
    assert scored(parent, child).sampled
    assert sources(parent, child) == NAMES


def test_copies_of_a_block_are_compared_in_full_and_keep_their_names() -> None:
    parent = weights_of(WIDE)
    twins = {(block, role): parent[NAMES[2] if block == NAMES[7] else block, role] for block, role in parent}
    scores = scored(twins, child_of(twins, {name: name for name in NAMES}, cosine=0.9))
    assert not scores.sampled
    assert [match.source for match in scores.best_map().matches] == NAMES


def test_a_pruned_child_is_compared_in_full() -> None:
    parent = weights_of(WIDE)
    child = child_of(parent, dict(zip(NAMES, [*NAMES[:3], *NAMES[4:]], strict=False)), cosine=0.9)
    assert not scored(parent, child).sampled


def test_only_the_kind_of_an_exchanged_pair_is_compared_in_full() -> None:
    parent = weights_of(sdxl() | transformers("late", 2))
    names = {block: block for block, _ in parent}
    places = [f"middle_block.1.transformer_blocks.{index}" for index in (0, 1)]
    child = child_of(parent, names | dict(zip(places, places[::-1], strict=True)), cosine=0.9)
    sampled = {kind.kind.sources[0].name: kind.sampled for kind in scored(parent, child).kinds}
    assert [name for name, confirmed in sampled.items() if not confirmed] == ["input_blocks.1.1.transformer_blocks.0"]


def test_zero_weights_confirm_nothing() -> None:
    parent = weights_of(transformers("blocks", 2))
    assert not scored(parent, {key: torch.zeros_like(weight) for key, weight in parent.items()}).sampled


@pytest.mark.parametrize("shape", [(4, 4), (1280, 1280), (10240, 1280), (1, 9), (320, 2880, 3, 3), (1280, 200_000)])
def test_sampled_rows_are_rows_of_the_weight_that_do_not_overlap(shape: tuple[int, ...]) -> None:
    layer = Layer("layer", "layer", "", WeightRef("layer", shape, "F16"))
    parts = sample_rows(layer)
    read = [row for rows in parts for row in range(rows.start, rows.stop)]
    assert len(read) == len(set(read)) > 0
    assert min(read) >= 0
    assert max(read) < shape[0]
    assert parts == [Rows(0, shape[0])] or len(read) < shape[0]
