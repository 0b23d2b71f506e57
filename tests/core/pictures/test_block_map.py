import numpy
import pytest
import torch

from lora_transfer.core.matching import score_blocks
from lora_transfer.core.pictures.block_map import block_map_picture
from lora_transfer.core.pictures.drawing import similarity_colour
from tests.core.matching.models import BlockBase, Weights, child_of, sdxl, transformers, weights_of

CHOSEN = (0xFF, 0x5F, 0x57)
PARENT = weights_of(sdxl())


def picture(parent: Weights, child: Weights) -> numpy.ndarray:
    scores = score_blocks(BlockBase("parent", parent), BlockBase("child", child), device=torch.device("cpu"))
    return block_map_picture(scores, scores.best_map(), "parent", "child")


def holds(drawn: numpy.ndarray, wanted: tuple[int, int, int]) -> bool:
    """Above the legend, which has every colour."""
    return bool((drawn[:-66] == numpy.array(wanted)).all(-1).any())


def test_equal_blocks_are_bright_and_the_chosen_ones_are_framed() -> None:
    drawn = picture(PARENT, PARENT)
    assert drawn.dtype == numpy.uint8
    assert holds(drawn, similarity_colour(1.0))
    assert holds(drawn, CHOSEN)
    assert numpy.array_equal(drawn, picture(PARENT, PARENT))


def test_nothing_has_a_frame_between_unrelated_models() -> None:
    drawn = picture(PARENT, weights_of(sdxl(), seed=4))
    assert not holds(drawn, CHOSEN)
    assert not holds(drawn, similarity_colour(1.0))


@pytest.mark.parametrize(
    ("parent", "child"),
    [
        ({}, {}),
        (PARENT, {}),
        ({("", "out"): torch.ones(3, 3)}, {("", "out"): torch.ones(3, 3)}),
        (weights_of(transformers("blocks", 100)), weights_of(transformers("blocks" * 40, 120))),
        (PARENT, child_of(PARENT, {"input_blocks.1.0": "input_blocks.1.0"})),
    ],
    ids=["nothing", "no target", "one block", "a hundred blocks", "one left"],
)
def test_any_two_models_give_a_picture_of_a_size_that_a_browser_shows(parent: Weights, child: Weights) -> None:
    height, width, _ = picture(parent, child).shape
    assert 150 < height < 2000
    assert 800 < width < 2000
