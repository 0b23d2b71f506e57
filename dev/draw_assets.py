"""Draws the icon and the banner that the Comfy registry shows, and README's first picture, which are rows of the demo's
comparison: `.run/venv/bin/python -m dev.draw_assets`.

The icon: the layers of the source on the left, those of a pruned target on the right. Ribbons transfer the LoRA from
layer to layer; the layer that the target lacks has none.
"""

import resvg_py
from PIL import Image

from .contact_sheet import BAND, GROUND, LEFT, MARGIN, SIDE, TOP
from .paths import ROOT

FOLDER = ROOT / "assets"
ICON, BANNER = 400, (1680, 720)  # pixels; the registry allows an icon of at most 400 x 400 and a banner of 21:9

_GROUND, _EDGE, _TEXT, _FAINT = "#15181f", "#262b36", "#f2f4f8", "#9aa4b5"
_SOURCE, _TARGET, _LOST = "#4cc9f0", "#5ec962", "#465064"
_PAIRS = ((0, 0), (1, 1), (3, 2), (4, 3))  # source layer, target layer; layer 2 has no partner
_LAYERS = 5
_RESULT_ROWS = ((1, 0), (5, 2), (6, 2), (7, 2))  # row of the demo's sheet, bands above it
_FONT = "Liberation Sans, Arial, Helvetica, sans-serif"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, drawing, width in (("icon", _icon(), ICON), ("banner", _banner(), BANNER[0])):
        (FOLDER / f"{name}.png").write_bytes(bytes(resvg_py.svg_to_bytes(svg_string=drawing, width=width)))
    _result(Image.open(ROOT / "dev" / "emoji_demo.jpg")).save(FOLDER / "result.jpg", quality=92)


def _result(sheet: Image.Image) -> Image.Image:
    """The rows of the comparison that show most: the source with its LoRA, and the pruned child."""
    scale = sheet.width / (LEFT + 8 * (SIDE + MARGIN))  # the demo's sheet has eight columns and is committed smaller
    height = round((SIDE + MARGIN) * scale)
    tops = [0, *(round((TOP + row * (SIDE + MARGIN) + bands * BAND) * scale) for row, bands in _RESULT_ROWS)]
    heights = [round(TOP * scale), *(height for _ in _RESULT_ROWS)]
    result = Image.new("RGB", (sheet.width, sum(heights)), GROUND)
    for index, (top, part) in enumerate(zip(tops, heights, strict=True)):
        result.paste(sheet.crop((0, top, sheet.width, top + part)), (0, sum(heights[:index])))
    return result


def _icon() -> str:
    ground = f'<rect width="{ICON}" height="{ICON}" rx="88" fill="{_GROUND}"/>'
    return _svg(ICON, ICON, ground + _layers(56, 68, 88, 288, 40))


def _banner() -> str:
    width, height = BANNER
    ground = f'<rect width="{width}" height="{height}" fill="{_GROUND}"/>'
    lines = (
        _line(110, 278, 124, "bold", _TEXT, "LoRA Transfer"),
        _line(116, 372, 50, "normal", _TEXT, "Your LoRAs on another base model."),
        _line(116, 436, 50, "normal", _TEXT, "Without training, without data."),
        _line(116, 540, 34, "normal", _FAINT, "for ComfyUI"),
    )
    panel = f'<rect x="1060" y="90" width="540" height="540" rx="56" fill="{_EDGE}" fill-opacity="0.55"/>'
    return _svg(width, height, ground + panel + "".join(lines) + _layers(1136, 182, 118, 388, 54))


def _svg(width: int, height: int, content: str) -> str:
    gradient = (
        '<defs><linearGradient id="ribbon" x1="0" x2="1" y1="0" y2="0">'
        f'<stop offset="0" stop-color="{_SOURCE}"/><stop offset="1" stop-color="{_TARGET}"/></linearGradient></defs>'
    )
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{gradient}{content}</svg>'


def _line(x: int, y: int, size: int, weight: str, colour: str, text: str) -> str:
    style = f'font-family="{_FONT}" font-size="{size}" font-weight="{weight}" fill="{colour}"'
    return f'<text x="{x}" y="{y}" {style}>{text}</text>'


def _layers(left: int, top: int, width: int, across: int, height: int) -> str:
    """Both columns of layers, `across` pixels from the left edge of one to the right edge of the other."""
    step = height * 1.4
    right = left + across - width
    sources = [top + index * step for index in range(_LAYERS)]
    targets = [top + step * (index + (_LAYERS - len(_PAIRS)) / 2) for index in range(len(_PAIRS))]
    matched = {source for source, _ in _PAIRS}
    ribbons = [
        _ribbon(left + width, sources[source], right, targets[target], height * 0.62, height)
        for source, target in _PAIRS
    ]
    bars = [_bar(left, y, width, height, _SOURCE if index in matched else _LOST) for index, y in enumerate(sources)] + [
        _bar(right, y, width, height, _TARGET) for y in targets
    ]
    return "".join(ribbons + bars)


def _bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{height * 0.3}" fill="{colour}"/>'


def _ribbon(x: float, y: float, to_x: float, to_y: float, thickness: float, height: float) -> str:
    """A band from the middle of a layer to the middle of its partner. It is a filled shape, because a gradient has no
    extent across a straight line."""
    upper, lower = y + (height - thickness) / 2, y + (height + thickness) / 2
    to_upper, to_lower = upper + to_y - y, lower + to_y - y
    middle, overlap = (x + to_x) / 2, height * 0.4
    path = (
        f"M{x - overlap},{upper} L{x},{upper} C{middle},{upper} {middle},{to_upper} {to_x},{to_upper} "
        f"L{to_x + overlap},{to_upper} L{to_x + overlap},{to_lower} L{to_x},{to_lower} "
        f"C{middle},{to_lower} {middle},{lower} {x},{lower} L{x - overlap},{lower} Z"
    )
    return f'<path d="{path}" fill="url(#ribbon)" fill-opacity="0.7"/>'


if __name__ == "__main__":
    main()
