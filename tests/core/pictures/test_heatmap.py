import numpy
import pytest
import torch

from lora_transfer.core.matching import match_by_name
from lora_transfer.core.pictures.drawing import EMPTY, FILE, NODE, Size, similarity_colour
from lora_transfer.core.pictures.heatmap import similarity_heatmap
from lora_transfer.core.reports.transfer import Report, similarity_report
from lora_transfer.core.similarity import compare
from lora_transfer.core.subspace import RankRule
from tests.core.bases import CountingBase


def whole_base(names: list[str]) -> CountingBase:
    generator = torch.Generator().manual_seed(5)
    return CountingBase("source", {name: torch.randn(12, 12, generator=generator) for name in names})


def report_of(names: list[str], drift: float = 0.2) -> Report:
    generator = torch.Generator().manual_seed(5)
    source = {name: torch.randn(12, 12, generator=generator) for name in names}
    target = {name: value + drift * torch.randn(12, 12, generator=generator) for name, value in source.items()}
    rule = RankRule("fraction", 0.5)
    bases = CountingBase("source", source), CountingBase("target", target)
    matching = match_by_name(bases[0].layers, bases[1].layers, names)
    return similarity_report(compare(*bases, matching, rule), None, 0.0)


def test_the_picture_is_rgb_of_bytes_and_always_the_same() -> None:
    report = report_of(["blocks.0.q", "blocks.0.k", "blocks.1.q", "blocks.1.k", "out"])
    picture = similarity_heatmap(report)
    assert picture.dtype == numpy.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert numpy.array_equal(picture, similarity_heatmap(report))


def test_equal_layers_are_bright_and_unrelated_ones_dark() -> None:
    def holds(report: Report, share: float) -> bool:
        return bool((similarity_heatmap(report)[100:-80] == numpy.array(similarity_colour(share))).all(-1).any())

    same = report_of(["blocks.0.q", "blocks.0.k"], drift=0.0)
    assert holds(same, 1.0)
    assert sum(similarity_colour(1.0)) > sum(similarity_colour(0.5)) > sum(similarity_colour(0.0))
    assert similarity_colour(-3) == similarity_colour(0)


def test_a_layer_without_a_partner_is_drawn_and_differs_from_no_layer() -> None:
    """The columns of a heatmap are all blocks that the LoRA changes, including those that the target lacks."""
    whole, partly = report_of(["blocks.0.q", "blocks.1.q", "blocks.2.q"]), report_of(["blocks.0.q", "blocks.1.q"])
    source, rule = whole_base(["blocks.0.q", "blocks.1.q", "blocks.2.q"]), RankRule("fraction", 0.5)
    matching = match_by_name(source.layers, whole_base(["blocks.0.q", "blocks.1.q"]).layers, list(source.layers))
    removed = similarity_report(compare(source, whole_base(["blocks.0.q", "blocks.1.q"]), matching, rule), None, 0.0)
    hatched = tuple(int(EMPTY[start : start + 2], 16) for start in (1, 3, 5))

    def holds(report: Report) -> bool:
        return bool((similarity_heatmap(report)[:-80] == numpy.array(hatched)).all(-1).any())

    assert [holds(report) for report in (whole, partly, removed)] == [False, False, True]


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["out"],
        [
            f"input_blocks.{i}.1.transformer_blocks.{j}.{role}"
            for i in range(8)
            for j in range(12)
            for role in ("q", "k")
        ],
        ["a" * 300 + ".q", "a" * 300 + ".k"],
        [f"block{i}.role{j}" for i in range(3) for j in range(60)],
    ],
    ids=["none", "one", "a hundred blocks", "long names", "sixty roles"],
)
@pytest.mark.parametrize(("size", "widest"), [(NODE, 1024), (FILE, 3600)], ids=["node", "file"])
def test_any_report_gives_a_picture_of_a_size_that_a_browser_shows(names: list[str], size: Size, widest: int) -> None:
    height, width, _ = similarity_heatmap(report_of(names), size).shape
    assert 150 < height < 2600
    assert 900 < width <= widest
