"""Checkpoints, so that a stopped training continues where it was; and the initial weights of ComfyUI's layers."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Checkpoints:
    """The state of a training on disk, written every `every` steps and read at the start."""

    def __init__(self, path: Path, parts: Mapping[str, Any], every: int = 200) -> None:
        self.path, self.every, self.parts, self.step = path, every, parts, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            kept = torch.load(path, weights_only=True)
            self.step = kept.pop("step")
            for name, state in kept.items():
                parts[name].load_state_dict(state)

    def remaining(self, steps: int) -> Iterator[int]:
        """Yields the remaining steps. A step is done when the next is requested; the state is saved in between."""
        for step in range(self.step, steps):
            yield step
            if (step + 1) % self.every == 0 and step + 1 < steps:
                kept = {name: part.state_dict() for name, part in self.parts.items()}
                unfinished = self.path.with_suffix(".unfinished")
                torch.save({**kept, "step": step + 1}, unfinished)
                os.replace(unfinished, self.path)
        self.path.unlink(missing_ok=True)


def initialise(model: Any, zero: tuple[str, ...] = ()) -> Any:
    """Gives ComfyUI's layers torch's usual initial weights, and zeros to the layers whose names end in `zero`.

    ComfyUI leaves weights unset, because it always loads them."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            start = nn.Linear if isinstance(module, nn.Linear) else nn.Conv2d
            start.reset_parameters(module)  # pyright: ignore[reportArgumentType]
            if name.endswith(zero) and zero:
                nn.init.zeros_(module.weight)
        elif isinstance(module, nn.GroupNorm | nn.LayerNorm | nn.RMSNorm) and module.weight is not None:
            nn.init.ones_(module.weight)
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor) and (not isinstance(module, nn.Linear | nn.Conv2d) or name.endswith(zero or "-")):
            nn.init.zeros_(bias)
    return model
