import numpy
import pytest

from lora_transfer.core.pictures.depth import depth_picture
from tests.core.pictures.test_heatmap import report_of

GREEN, ORANGE = (0x5E, 0xC9, 0x62), (0xFF, 0x9F, 0x43)


def top_of(drawn: numpy.ndarray, colour: tuple[int, int, int]) -> int:
    """The first row of pixels in which a colour is found; the curve lies above the legend."""
    return int((drawn == numpy.array(colour)).all(-1).any(1).argmax())


def test_equal_models_are_drawn_at_the_top_and_unrelated_models_at_the_bottom() -> None:
    names = [f"blocks.{index}.{role}" for index in range(6) for role in ("q", "k")]
    near, far = depth_picture(report_of(names, drift=0.0)), depth_picture(report_of(names, drift=100.0))
    assert near.dtype == numpy.uint8
    assert top_of(near, GREEN) < 130
    assert top_of(far, GREEN) > 250
    assert top_of(far, ORANGE) > 250


@pytest.mark.parametrize(
    "names",
    [[], ["out"], [f"blocks.{index}.q" for index in range(130)], ["a" * 300 + ".q", "b" * 300 + ".q"]],
    ids=["none", "one", "many blocks", "long names"],
)
def test_any_report_gives_a_picture_of_a_size_that_a_browser_shows(names: list[str]) -> None:
    height, width, _ = depth_picture(report_of(names)).shape
    assert 350 < height < 1000
    assert 800 < width < 1500
