import pytest
import torch

from lora_transfer.core.matching import BlockMap, Measure, map_blocks, scores
from lora_transfer.core.matching.blocks import blocks_of
from lora_transfer.core.matching.by_block import sample_roles, score_blocks
from tests.core.matching.models import BlockBase, Weights, child_of, sdxl, transformers, weights_of

CPU = torch.device("cpu")
PARENT = weights_of(sdxl((3, 10, 4, 10)))


def kept(*wanted: tuple[str, str]) -> dict[str, str]:
    """(child block, parent block) pairs, and every block of the parent that is outside the spatial transformers."""
    return {block: block for block, _ in PARENT if "transformer_blocks" not in block} | dict(wanted)


def shortened(place: str, *indices: int) -> list[tuple[str, str]]:
    return [
        (f"{place}.1.transformer_blocks.{new}", f"{place}.1.transformer_blocks.{old}")
        for new, old in enumerate(indices)
    ]


def without(blocks: dict[str, str], start: str) -> dict[str, str]:
    return {child: parent for child, parent in blocks.items() if not child.startswith(start)}


CHILDREN = {
    "SSD-1B": without(
        kept(
            *shortened("input_blocks.1", 0, 1, 2),
            *shortened("input_blocks.2", 0, 1, 2, 6),
            *shortened("output_blocks.0", 0, 1, 2, 6),
        ),
        "middle_block.1",
    ),
    "Vega": without(
        kept(*shortened("input_blocks.1", 0), *shortened("input_blocks.2", 0, 5), *shortened("output_blocks.0", 0, 9)),
        "middle_block",
    ),
    "renumbered levels": {
        "": "",
        **dict([*shortened("input_blocks.1", 1), *shortened("middle_block", 3)]),
        "input_blocks.1.0": "input_blocks.2.0",
        "output_blocks.3.0": "output_blocks.0.0",
    },
}


def found_map(parent: Weights, child: Weights, measure: str = "weight_cosine", **settings: str) -> BlockMap:
    bases = BlockBase("parent", parent), BlockBase("child", child)
    return map_blocks(*bases, measure=measure, device=CPU, **settings)  # pyright: ignore[reportArgumentType]


def share_right(found: BlockMap, taken: dict[str, str]) -> float:
    return sum(match.source == taken.get(match.target, match.target) for match in found.matches) / len(found.matches)


@pytest.mark.parametrize("cosine", [0.95, 0.8, 0.6])
@pytest.mark.parametrize("name", CHILDREN)
def test_the_blocks_that_a_child_kept_are_found_down_to_a_cosine_of_six_tenths(name: str, cosine: float) -> None:
    child = child_of(PARENT, CHILDREN[name], cosine=cosine)
    assert share_right(found_map(PARENT, child), CHILDREN[name]) == 1


@pytest.mark.parametrize("name", CHILDREN)
def test_nine_of_ten_blocks_are_found_at_a_cosine_of_four_tenths(name: str) -> None:
    child = child_of(PARENT, CHILDREN[name], cosine=0.4)
    assert share_right(found_map(PARENT, child), CHILDREN[name]) >= 0.9


@pytest.mark.parametrize("order", ["in order", "free"])
def test_similarity_of_subspaces_finds_them_too(order: str) -> None:
    child = child_of(PARENT, CHILDREN["SSD-1B"], cosine=0.95)
    assert share_right(found_map(PARENT, child, "subspace", order=order), CHILDREN["SSD-1B"]) == 1


def test_blocks_that_were_left_out_say_what_they_resemble_most_and_why_that_is_not_enough() -> None:
    found = found_map(PARENT, child_of(PARENT, CHILDREN["SSD-1B"], cosine=0.9))
    alone = {block.source: block for block in found.unused_blocks}
    assert len(alone) == 6 + 6 + 5
    gone = alone["input_blocks.2.1.transformer_blocks.3"]
    assert gone.best is not None
    assert abs(gone.score or 1) < 0.1
    assert "no better than unrelated weights" in gone.why


def test_a_block_that_lost_to_its_neighbour_says_to_which() -> None:
    parent = weights_of(transformers("blocks", 2))
    names = list(dict.fromkeys(block for block, _ in parent))
    twins = {(block, role): weight + 0.8 * parent[names[0], role] for (block, role), weight in parent.items()}
    found = found_map(twins, child_of(twins, {names[0]: names[0]}, cosine=0.95))
    assert [block.why.partition(", ")[2] for block in found.unused_blocks] == [f"which {names[0]} feeds instead"]


def test_a_grown_model_takes_one_block_several_times() -> None:
    """Anima grew from 28 to 40 and 52 blocks by copies."""
    parent = weights_of(transformers("blocks", 5))
    origins = (0, 0, 1, 2, 2, 2, 3, 4)
    names = [f"blocks.transformer_blocks.{index}" for index in range(len(origins))]
    taken = {name: f"blocks.transformer_blocks.{origin}" for name, origin in zip(names, origins, strict=True)}
    found = found_map(parent, child_of(parent, taken, cosine=0.8))
    assert share_right(found, taken) == 1
    assert found.targets_of("blocks.transformer_blocks.2") == names[3:6]
    assert not found.unused_blocks


def test_decoys_of_equal_shape_do_not_win_over_the_true_parent() -> None:
    """Each target block is as much as possible like another block of the source, and still more like its parent."""
    parent = weights_of(transformers("blocks", 8))
    names = list(dict.fromkeys(block for block, _ in parent))
    mixed = {
        (block, role): 0.62 * weight + 0.5 * parent[names[(names.index(block) + 3) % 8], role]
        for (block, role), weight in parent.items()
    }
    assert share_right(found_map(parent, mixed), {}) == 1


def test_the_order_of_the_blocks_decides_where_the_scores_do_not() -> None:
    """Two distant blocks of the source are the same: only one of them stands where the copy does."""
    parent = weights_of(transformers("blocks", 6))
    names = list(dict.fromkeys(block for block, _ in parent))
    twins = {(block, role): parent[names[4] if block == names[0] else block, role] for block, role in parent}
    taken = dict(zip(names, (names[1], names[2], names[4], names[5]), strict=False))
    assert share_right(found_map(twins, child_of(twins, taken, cosine=0.7)), taken) == 1


def test_shuffled_blocks_need_the_free_assignment() -> None:
    parent = weights_of(transformers("blocks", 6))
    names = list(dict.fromkeys(block for block, _ in parent))
    taken = dict(zip(names, [names[i] for i in (3, 1, 5, 0, 4, 2)], strict=True))
    child = child_of(parent, taken, cosine=0.7)
    assert share_right(found_map(parent, child, order="free"), taken) == 1
    assert share_right(found_map(parent, child), taken) < 1


def test_the_same_name_wins_a_tie() -> None:
    parent = weights_of(transformers("blocks", 4))
    equal = {(block, role): parent["blocks.transformer_blocks.0", role] for block, role in parent}
    assert share_right(found_map(equal, equal), {}) == 1


def test_unrelated_models_share_no_block_though_their_weights_have_means_in_common() -> None:
    found = found_map(PARENT, weights_of(sdxl((3, 10, 4, 10)), seed=9))
    assert not [match for match in found.matches if match.source]
    assert all("no better than unrelated weights" in match.why for match in found.matches)


def test_models_of_different_makes_and_dead_weights_give_a_map_of_nothing() -> None:
    narrow = weights_of({"blocks.0": {"attn1.to_q": (8, 8)}, "blocks.1": {"other": (8, 8)}})
    found = found_map(PARENT, narrow)
    assert [match.why for match in found.matches] == [
        "the source base has no block of this kind (roles and shapes)"
    ] * 2
    dead = {key: torch.zeros_like(weight) for key, weight in PARENT.items()}
    assert all("weights are zero" in match.why for match in found_map(PARENT, dead).matches)
    assert not found_map({}, narrow).unused_blocks
    assert not found_map(PARENT, {}).matches


def test_a_block_that_lacks_a_role_still_belongs_to_its_kind() -> None:
    parent = weights_of(transformers("blocks", 3))
    child = child_of(parent, {block: block for block, _ in parent}, cosine=0.9)
    child.pop(("blocks.transformer_blocks.1", "attn2.to_k"))
    assert share_right(found_map(parent, child), {}) == 1


def test_a_few_cheap_roles_stand_for_a_block_and_each_is_read_once() -> None:
    shapes = {"q": (60, 60), "k": (60, 60), "v": (60, 60), "out": (60, 60), "up": (240, 60), "tiny": (4, 4)}
    parent = weights_of({f"blocks.{index}": shapes for index in range(4)})
    bases = BlockBase("parent", parent), BlockBase("child", parent)
    scores = score_blocks(*bases, device=CPU)
    (one,) = scores.kinds
    assert torch.allclose(scores.table(), torch.eye(4), atol=0.1)
    assert sample_roles(one.kind) == ["q", "k", "out"]
    assert set(bases[0].reads.values()) == {1}
    assert len(bases[0].reads) == 12
    assert len(blocks_of(bases[0].layers.values())) == 4


def test_the_measurement_says_how_far_it_is() -> None:
    steps: list[tuple[int, int, str]] = []
    base = BlockBase("base", weights_of(transformers("blocks", 2)))
    map_blocks(base, base, device=CPU, progress=lambda *step: steps.append(step))
    assert [done for done, _, _ in steps] == list(range(len(steps)))
    assert steps[-1] == (len(steps) - 1, len(steps) - 1, "")


def test_a_new_measure_of_likeness_is_one_entry_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Measure(
        "cosine of row sums", "blocks by row sums", 0.2, lambda matrix: matrix.sum(1), lambda short, _: short
    )
    monkeypatch.setitem(scores.MEASURES, "row sums", rows)  # pyright: ignore[reportArgumentType]
    parent = weights_of(transformers("blocks", 3))
    found = found_map(parent, parent, "row sums")
    assert share_right(found, {}) == 1
    assert found.matches[0].why.startswith("cosine of row sums 1.000")
