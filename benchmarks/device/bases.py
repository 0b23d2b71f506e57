"""Bases with the shapes of real models, made on the device and written to files as users have them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..speed.weights import FileBase, Shape, inventory, matrix_shape, open_base

_DRIFT = 0.2  # of the noise that makes the target of the source, relative to it
_FALL = 0.175  # power by which rows and columns fall off, as in benchmarks/speed

SMALL: Mapping[str, Shape] = {"square": (96, 96, 1, 1), "wide": (64, 96, 1, 1), "kernel": (40, 24, 3, 3)}
MIX: Mapping[str, Shape] = {
    "square": (1280, 1280, 1, 1),
    "wide": (1280, 2048, 1, 1),
    "tall": (10240, 1280, 1, 1),
    "kernel": (640, 320, 3, 3),
}


def layers_of(model: str, every: int) -> dict[str, Shape]:
    """Every so-manieth layer of a model, spread over its shapes."""
    shapes = [shape for shape, count in sorted(inventory(model).items()) for _ in range(count)]
    return {f"layer{index}": shape for index, shape in list(enumerate(shapes))[every // 2 :: every]}


def write_pair(folder: Path, shapes: Mapping[str, Shape], device: str) -> tuple[FileBase, FileBase]:
    """Source and target in float16 files: the same as benchmarks/speed writes, in seconds on a card."""
    generator = torch.Generator(device).manual_seed(1)
    tensors: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}
    for name, shape in shapes.items():
        source = _weight(shape, generator)
        target = source + _DRIFT * _weight(shape, generator)
        for held, weight in zip(tensors, (source, target), strict=True):
            held[name] = weight.reshape(shape).half().cpu()
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.safetensors" for name in ("source", "target")]
    for path, held in zip(paths, tensors, strict=True):
        save_file(held, path)
    return open_base(paths[0]), open_base(paths[1])


def _weight(shape: Shape, generator: torch.Generator) -> Tensor:
    rows, columns = matrix_shape(shape)
    device = generator.device
    noise = torch.randn(rows, columns, generator=generator, device=device) / columns**0.5
    for axis, size in ((0, rows), (1, columns)):
        fall = torch.arange(1, size + 1, device=device).float() ** -_FALL
        noise *= fall[torch.randperm(size, generator=generator, device=device)].unsqueeze(1 - axis)
    return noise
