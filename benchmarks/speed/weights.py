"""Weight files with the shapes of real models and realistic spectra, and LoRAs for them."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from core.delta import LowRankDelta
from core.files import TensorFile, open_tensor_file
from core.layers import Layer, Rows, WeightRef

Shape = tuple[int, ...]

# The singular values of real layers fall slowly: 90 % of the energy lies in 27 to 77 % of the rank. With this power,
# white noise of 1280 x 1280 has it in 47 %.
_FALL = 0.35
RANK = 16


def inventory(model: str) -> dict[Shape, int]:
    """The number of a model's matrices of each shape (out, in, kh, kw), as in its checkpoint's header."""
    shapes = json.loads((Path(__file__).parent / "shapes.json").read_text())[model]
    return {tuple(shape): count for *shape, count in shapes}


def matrix_shape(shape: Shape) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])


def make_weight(shape: Shape, seed: int) -> Tensor:
    """Noise whose rows and columns fall off by a power, in random order. That gives it a spectrum without a QR."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = matrix_shape(shape)
    noise = torch.randn(rows, columns, generator=generator) / columns**0.5
    for axis, size in ((0, rows), (1, columns)):
        fall = torch.arange(1, size + 1).float() ** (-_FALL / 2)
        noise *= fall[torch.randperm(size, generator=generator)].unsqueeze(1 - axis)
    return noise.reshape(shape)


@dataclass(frozen=True)
class FileBase:
    """A Base that reads one safetensors file, as the host's bases do."""

    name: str
    fingerprint: str
    layers: Mapping[str, Layer]
    file: TensorFile
    notes: Sequence[str] = ()

    def read(self, layer: Layer) -> Tensor:
        return self.file.read(layer.weight.key).flatten(1)

    def read_parts(self, layer: Layer, parts: Sequence[Rows]) -> Iterator[Tensor]:
        return (part.flatten(1) for part in self.file.read_parts(layer.weight.key, parts))


def write_pair(folder: Path, shapes: Mapping[str, Shape], drift: float = 0.2) -> tuple[FileBase, FileBase]:
    """Writes two float16 bases with these layers; the target is the source with drift."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}
    for seed, (name, shape) in enumerate(shapes.items()):
        source = make_weight(shape, 2 * seed)
        tensors[0][name] = source.half()
        tensors[1][name] = (source + drift * make_weight(shape, 2 * seed + 1)).half()
    names = "source", "target"
    for name, part in zip(names, tensors, strict=True):
        save_file(part, folder / f"{name}.safetensors")
    source, target = (open_base(folder / f"{name}.safetensors") for name in names)
    return source, target


def open_base(path: Path) -> FileBase:
    file = open_tensor_file(path)
    layers = {
        key: Layer(key, key, "", WeightRef(key, header.shape, header.dtype, file=file.mark(key)))
        for key, header in file.tensors.items()
    }
    return FileBase(path.stem, path.stem, layers, file)


def lora_on(base: FileBase, seed: int) -> dict[str, LowRankDelta]:
    """A random LoRA on every layer, of rank 16 or of the layer's rank if that is smaller."""
    generator = torch.Generator().manual_seed(seed)
    deltas: dict[str, LowRankDelta] = {}
    for name, layer in base.layers.items():
        rows, columns = layer.weight.matrix_shape
        rank = min(RANK, rows, columns)
        up, down = torch.randn(rows, rank, generator=generator), torch.randn(rank, columns, generator=generator)
        deltas[name] = LowRankDelta(up, down)
    return deltas
