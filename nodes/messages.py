"""What a node shows below its inputs when it has run: sentences, the picture's data, and images."""

from collections.abc import Iterable, Mapping
from typing import Any

from comfy_api.latest import ui

from ..core.reports.line import Line

KEY = "lora_transfer"  # web/lora_transfer.js reads this part of a node's `ui` result


def message(
    lines: Iterable[Line], report: Mapping[str, Any] | None = None, images: Iterable[ui.PreviewImage] = ()
) -> dict[str, Any]:
    """The `ui` result of a node. ComfyUI sends it to the page, keeps it beside the cached outputs, and sends it again
    for a cached node whose schema says has_intermediate_output.

    lines: from top to bottom. report: a report's `for_picture()`, if the node has an interactive picture. images: shown
    as ComfyUI shows images, in this order.
    """
    content: dict[str, Any] = {"lines": [line.as_json() for line in lines]}
    if report is not None:
        content["report"] = dict(report)
    shown: dict[str, Any] = {KEY: [content]}  # a list, because ComfyUI joins the results of a list of inputs
    saved = [image for picture in images for image in picture.as_dict()["images"]]
    return {**shown, "images": saved, "animated": (False,)} if saved else shown
