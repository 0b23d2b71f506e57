"""Writes pairs of bases and LoRAs with the names and shapes of real models, and files that are no LoRAs."""

# The pack's own name exists only once bare.prepare() has given it.
# pyright: reportMissingImports=false

import json
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.speed.sdxl import PairFiles, write_pair

_STRENGTH = 0.2  # of a LoRA, relative to the weights


def write_pair_of(family: str, folder: Path) -> PairFiles:
    """Two related diffusion models of a family of tests.host.families, unless they are there."""
    from tests.host.families import UNETS

    files = PairFiles.below(folder)
    return files if files.lora.is_file() else write_pair(folder, UNETS[family])


def write_loras(folder: Path, source: Path, count: int, rank: int) -> None:
    """LoRAs on all matrices of the source's transformer blocks."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = _matrices(source)
    for index in range(count):
        path = folder / f"{index:04}.safetensors"
        if not path.is_file():
            save_file(_factors(shapes, index, rank), path, {"ss_network_dim": str(rank), "ss_output_name": path.stem})


def _matrices(source: Path) -> dict[str, tuple[int, int]]:
    with safe_open(source, "pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    return {key: shape for key, shape in shapes.items() if "transformer_blocks." in key and len(shape) == 2}


def _factors(shapes: Mapping[str, tuple[int, int]], seed: int, rank: int) -> dict[str, Tensor]:
    """A change of a fifth of the norm of weights whose rows have length 1."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for key, (rows, columns) in shapes.items():
        name = f"diffusion_model.{key.removesuffix('.weight')}"
        up = torch.randn(rows, rank, generator=generator)
        down = torch.randn(rank, columns, generator=generator) * (_STRENGTH / math.sqrt(rank * columns))
        tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"] = up.half(), down.half()
        tensors[f"{name}.alpha"] = torch.tensor(float(rank))
    return tensors


def write_odd_files(folder: Path, count: int) -> int:
    """Files among the LoRAs that are none, or that are hostile. Returns how many of them have no result."""
    good = load_file(next(path for path in sorted(folder.glob("*.safetensors")) if "0" in path.name))
    for index in range(count):
        name, write = list(_ODD.items())[index % len(_ODD)]
        write(folder / f"odd_{index:04}_{name}", good)
    return count


class _Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        import os

        return os._exit, (66,)


def _write_bytes(content: bytes) -> Callable[[Path, dict[str, Tensor]], object]:
    return lambda path, _: path.write_bytes(content)


def _write_header(header: Mapping[str, Any]) -> Callable[[Path, dict[str, Tensor]], object]:
    text = json.dumps(header).encode()
    return _write_bytes(len(text).to_bytes(8, "little") + text)


def _write_changed(change: Callable[[str, Tensor], Tensor]) -> Callable[[Path, dict[str, Tensor]], object]:
    return lambda path, good: save_file({key: change(key, value) for key, value in good.items()}, path)


def _cut(path: Path, good: dict[str, Tensor]) -> None:
    save_file(good, path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


_ODD: dict[str, Callable[[Path, dict[str, Tensor]], object]] = {
    "empty.safetensors": _write_bytes(b""),
    "page_of_a_site.safetensors": _write_bytes(b"<!DOCTYPE html><html>Log in to download</html>"),
    "cut.safetensors": _cut,
    "huge_header.safetensors": _write_bytes(b"\xff" * 8 + b"{}"),
    "huge_tensor.safetensors": _write_header({"x": {"dtype": "F16", "shape": [2**40, 2**20], "data_offsets": [0, 4]}}),
    "deep.safetensors": _write_bytes((200_000).to_bytes(8, "little") + b"[" * 200_000),
    "deadly.pt": _write_bytes(pickle.dumps(_Deadly())),
    "no_pickle.ckpt": _write_bytes(b"\x80\x04nothing"),
    "nan.safetensors": _write_changed(lambda key, value: torch.full_like(value, math.nan)),
    "other_shapes.safetensors": _write_changed(lambda key, value: value if value.ndim < 2 else value.repeat(1, 3)),
    "foreign.safetensors": lambda path, _: save_file({"lora_unet_blocks_99.lora_up.weight": torch.ones(3, 2)}, path),
    "a_base.safetensors": lambda path, _: save_file({"model.diffusion_model.out.2.weight": torch.ones(4, 4)}, path),
}
