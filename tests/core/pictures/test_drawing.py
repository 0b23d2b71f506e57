import re

import numpy
import pytest
from PIL import Image, ImageDraw, ImageFont

from lora_transfer.core.pictures.drawing import BACKGROUND, MARGIN, NODE, VIRIDIS, cut_end, draw_titles, file_title, fit
from lora_transfer.core.pictures.labels import block_runs, short_block
from tests.conftest import ROOT

LONG = "a_very_long_name_of_a_merge_of_many_models_" * 6 + "v12_fp16.safetensors"


def test_the_interactive_picture_has_the_same_palette() -> None:
    script = (ROOT / "web" / "layer_picture" / "colours.js").read_text()
    assert tuple(re.findall(r'"(#[0-9a-f]{6})"', script.partition("];")[0])) == VIRIDIS


def test_a_cut_name_keeps_its_end_and_fits() -> None:
    font = ImageFont.load_default(20)
    cut = fit(LONG, font, 300)
    assert cut.endswith("v12_fp16.safetensors")
    assert 200 < font.getlength(cut) <= 300
    assert fit("short", font, 300) == "short"


def test_long_names_of_both_bases_stay_inside_the_picture() -> None:
    picture = Image.new("RGB", (NODE.width + 200, 400), BACKGROUND)
    height = draw_titles(ImageDraw.Draw(picture), NODE, "Title", (LONG, LONG), (LONG,), NODE.width)
    pixels = numpy.asarray(picture)
    assert height < 300
    assert (pixels[:, NODE.width - MARGIN :] == pixels[0, 0]).all()


@pytest.mark.parametrize(
    ("name", "title"),
    [("folder/a.safetensors", "a"), ("b\\c.GGUF", "c"), ("no ending", "no ending"), ("v1.5", "v1.5")],
)
def test_a_title_leaves_out_the_folder_and_the_ending(name: str, title: str) -> None:
    assert file_title(name) == title


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("input_blocks.7.1.transformer_blocks.3", "IN 7.1.3"),
        ("middle_block.1.transformer_blocks", "MID 1"),
        ("double_blocks.18", "DOUBLE 18"),
        ("clip_l.transformer.text_model.encoder.layers.3", "clip_l.3"),
        ("something.else.4", "something.else.4"),
    ],
)
def test_blocks_have_short_labels(name: str, label: str) -> None:
    assert short_block(name) == label


def test_a_run_is_labelled_by_its_blocks_name_and_their_number() -> None:
    runs = block_runs([*(f"input_blocks.7.1.transformer_blocks.{index}" for index in range(10)), "out"])
    assert [run.label for run in runs] == ["IN 7.1 x10", "out"]


def test_a_sentence_keeps_its_beginning() -> None:
    font = ImageFont.load_default(20)
    reason = "unusable: the file is damaged, or of an unknown kind"
    assert cut_end(reason, font, 1000) == reason
    cut = cut_end(reason, font, 200)
    assert cut.endswith("…")
    assert reason.startswith(cut[:-1])
    assert font.getlength(cut) <= 200
