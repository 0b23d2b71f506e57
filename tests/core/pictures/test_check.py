from dataclasses import replace

import numpy
import pytest
import torch

from lora_transfer.core.check import STRENGTHS, Trial, measure
from lora_transfer.core.pictures.check import check_picture
from lora_transfer.core.reports.check import CheckReport
from lora_transfer.core.reports.envelope import Identity

GREEN, ORANGE, RING = (0x5E, 0xC9, 0x62), (0xFF, 0x9F, 0x43), (0xEC, 0xEC, 0xF0)


def report_of(
    transferred: float,
    copy: float | None,
    levels: int = 6,
    strengths: tuple[float, ...] = (1.0,),
    name: str = "a",
    apart: float = -1.0,
) -> CheckReport:
    """A report of adapters whose effect on the target is a factor times that on the source. apart: the same for the gap
    between the bare target and the source with its adapter."""
    source = torch.randn(levels, 2, 4, generator=torch.Generator().manual_seed(1))

    def trial(role: str, factor: float) -> Trial:
        attempts = tuple(
            measure(strength, strength * factor * source, source, apart * source) for strength in strengths
        )
        return Trial(role, name, name, "sha", "", attempts)  # pyright: ignore[reportArgumentType]

    trials = [trial("transferred", transferred), *([] if copy is None else [trial("copy", copy)])]
    identity = Identity(name, "sha")
    sigmas = tuple(14.6 / 1.1**level for level in range(levels))
    return CheckReport(identity, identity, identity, {}, sigmas, tuple(trials))


def top_of(drawn: numpy.ndarray, colour: tuple[int, int, int]) -> int:
    """The first row of pixels in which a colour is found; the curves lie above the legend."""
    return int((drawn == numpy.array(colour)).all(-1).any(1).argmax())


def test_a_closed_gap_is_drawn_at_the_top_and_an_open_gap_below() -> None:
    drawn = check_picture(report_of(1.0, 0.0))
    assert drawn.dtype == numpy.uint8
    assert top_of(drawn, GREEN) < 165
    assert top_of(drawn, ORANGE) > 400
    assert numpy.array_equal(drawn, check_picture(report_of(1.0, 0.0)))


def marks(drawn: numpy.ndarray) -> int:
    """Squares of 5 pixels of the transferred adapter's colour: only the dots of a thick line contain them."""
    found = (drawn == numpy.array(GREEN)).all(-1)
    return int(numpy.lib.stride_tricks.sliding_window_view(found, (5, 5)).all((-1, -2)).sum())


def test_the_thick_line_is_the_gap_closed_and_the_thin_line_is_g() -> None:
    """Twice the change on the source, where that is the whole gap: gap closed is 1 and G is 0."""
    drawn = check_picture(report_of(2.0, None, apart=-2.0))
    assert marks(drawn[150:170]) > 0
    assert marks(drawn[410:430]) == 0
    assert (drawn[410:430] == numpy.array(GREEN)).all(-1).sum() > 500


def test_without_a_gap_no_thick_line_is_drawn() -> None:
    searched, nothing = (report_of(0.5, None, strengths=STRENGTHS, apart=apart) for apart in (-1.0, 0.0))
    assert marks(check_picture(searched)) > 0
    assert marks(check_picture(nothing)) == 0


def test_with_many_adapters_no_cosine_is_drawn() -> None:
    """At half of the change the cosine is still 1, at the top."""
    one = report_of(0.5, None)
    many = replace(one, trials=one.trials + 4 * (replace(one.transferred, role="more"),))
    top = [(check_picture(report)[150:170] == numpy.array(GREEN)).all(-1).any() for report in (one, many)]
    assert top == [True, False]


def test_without_a_copy_the_picture_has_none() -> None:
    drawn = check_picture(report_of(1.0, None))
    assert not (drawn == numpy.array(ORANGE)).all(-1).any()


def test_a_search_has_a_second_panel_with_a_ring_at_the_best_strength() -> None:
    off, on = check_picture(report_of(2.0, 1.0)), check_picture(report_of(2.0, None, strengths=STRENGTHS))
    right = slice(750, None)
    ring = numpy.array(RING)
    assert (on[150:425, right] == ring).all(-1).any()
    assert not (off[150:425, right] == ring).all(-1).any()


@pytest.mark.parametrize("strengths", [(1.0,), STRENGTHS], ids=["plain", "searched"])
@pytest.mark.parametrize(
    ("transferred", "levels", "name"),
    [(1.0, 1, "a"), (0.8, 100, "a"), (-9.0, 6, "a" * 300)],
    ids=["one level", "a hundred levels", "harm and long names"],
)
def test_any_check_gives_a_picture_of_a_size_that_a_browser_shows(
    transferred: float, levels: int, name: str, strengths: tuple[float, ...]
) -> None:
    height, width, _ = check_picture(report_of(transferred, 0.5, levels, strengths, name)).shape
    assert 400 < height < 700
    assert 900 < width < 1200
