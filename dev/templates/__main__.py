"""Writes the templates and the blueprint: `.run/venv/bin/python -m dev.templates [--thumbnails]`."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from ..paths import BLUEPRINTS, HOST, TEMPLATES
from ..server import ComfyServer, add_demo
from .blueprint import NAME, build_blueprint
from .graph import Graph
from .sdxl import TEMPLATES as BUILDERS
from .thumbnails import draw_thumbnails


def main() -> None:
    add_demo(HOST)
    with ComfyServer(Path(os.environ["LORA_TRANSFER_COMFYUI"]), HOST) as client:
        write_workflows(client.object_info())
        if "--thumbnails" in sys.argv:
            draw_thumbnails(client, TEMPLATES)


def write_workflows(object_info: dict[str, Any]) -> None:
    for path, workflow in build_workflows(object_info).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def build_workflows(object_info: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """Every workflow by its file."""
    workflows: dict[Path, dict[str, Any]] = {}
    for name, build in BUILDERS.items():
        graph = Graph(object_info)
        build(graph)
        workflows[TEMPLATES / f"{name}.json"] = graph.as_json(name)
    workflows[BLUEPRINTS / f"{NAME}.json"] = build_blueprint(object_info)
    return workflows


if __name__ == "__main__":
    main()
