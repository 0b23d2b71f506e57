"""The parts of a run, in order, each with its own time limit; and what a part is: rows of figures, one by one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

Row = dict[str, Any]  # heads of the table -> figures; `what` comes first


@dataclass(frozen=True)
class Setting:
    """device: "cuda" or "cpu"; tiny: toy sizes; folder: an empty one for files; seconds: what the part may take."""

    device: str
    tiny: bool
    folder: Path
    seconds: float


@dataclass(frozen=True)
class Part:
    """One part of the run, in a process of its own.

    seconds: its limit on a card; time that earlier parts left is added to it. module, function: what in this package
    gives its rows. comfy: whether it needs ComfyUI. on: the device that it runs on in any case.
    """

    name: str
    title: str
    seconds: float
    module: str
    function: str
    comfy: bool = False
    on: str | None = None

    def rows(self, setting: Setting) -> Iterator[Row]:
        function: Callable[[Setting], Iterator[Row]] = getattr(
            import_module(f".{self.module}", __package__), self.function
        )
        return function(setting)


# Together at most eight minutes.
PARTS = (
    Part("laws", "Tests marked gpu, and the laws on the device against the float64 oracle", 30, "laws", "rows"),
    Part("numbers", "Every method on the device against the processor", 40, "numbers", "rows"),
    Part("solvers", "Eigensolvers by size", 30, "solvers", "rows"),
    Part("speed", "The SDXL pair: first and second LoRA", 105, "speed", "rows"),
    Part("published", "Beside the published procedure", 15, "speed", "published_rows"),
    Part("check", "Check Transfer on an SDXL-shaped model", 55, "sdxl", "check_rows", comfy=True),
    Part("refine", "Refine LoRA on an SDXL-shaped model", 110, "sdxl", "refine_rows", comfy=True),
    Part("dynamic", "The same with ComfyUI's dynamic loading of weights", 35, "sdxl", "dynamic_rows", comfy=True),
    Part("emoji_cpu", "Refine LoRA on the emoji models, processor", 25, "emoji", "rows", comfy=True, on="cpu"),
    Part("emoji", "Refine LoRA on the emoji models, device", 35, "emoji", "rows", comfy=True),
)


def part_named(name: str) -> Part:
    return next(part for part in PARTS if part.name == name)
