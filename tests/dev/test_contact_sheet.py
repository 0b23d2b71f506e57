import io

from PIL import Image

from dev.contact_sheet import BAND, LEFT, MARGIN, SIDE, TOP, Row, contact_sheet


def test_every_drawing_stands_under_its_caption_and_beside_its_title() -> None:
    rows = [
        Row("Source: no LoRA", [_square("red"), _square("lime")]),
        Row("Source: its LoRA", [_square("blue"), _square("white")]),
        Row("Target: no LoRA", [_square("yellow"), _square("black")]),
    ]
    sheet = contact_sheet(rows, ["ghost", "grinning cat"])
    step, middle = SIDE + MARGIN, SIDE // 2
    lefts = [LEFT + middle, LEFT + step + middle]
    tops = [TOP + middle, TOP + step + middle, TOP + 2 * step + BAND + middle]
    found = [[sheet.getpixel((left, top)) for left in lefts] for top in tops]
    assert found == [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)], [(255, 255, 0), (0, 0, 0)]]
    for corner in ((LEFT, 0, sheet.width, TOP), (0, TOP, LEFT, sheet.height)):  # captions, titles
        lightest = sheet.crop(corner).convert("L").getextrema()[1]
        assert isinstance(lightest, int)
        assert lightest > 150


def _square(colour: str) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(written, "PNG")
    return written.getvalue()
