"""Files whose bytes depend on nothing but their content."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lora_transfer.core.files.tensor_writer import save_tensors

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def tensors(generator: torch.Generator) -> dict[str, torch.Tensor]:
    values = torch.randn(3, 5, generator=generator) * 10
    return {
        **{f"of {dtype}": values.to(dtype) for dtype in DTYPES},
        "a number": torch.tensor(4.0),
        "nothing": torch.empty(0, 7),
        "a view": values.mT,
        "ümläut": values[1:],
    }


def test_the_library_reads_what_is_written(tmp_path: Path, generator: torch.Generator) -> None:
    written, metadata = tensors(generator), {"b": "2", "a": 'quo"te\n'}
    save_tensors(tmp_path / "x", written, metadata)
    read = load_file(tmp_path / "x")
    assert read.keys() == written.keys()
    assert all(torch.equal(read[key], value) and read[key].dtype == value.dtype for key, value in written.items())
    with safe_open(tmp_path / "x", "pt") as file:
        assert file.metadata() == metadata


def test_the_order_of_the_content_makes_no_difference(tmp_path: Path, generator: torch.Generator) -> None:
    written = tensors(generator)
    first = save_tensors(tmp_path / "x", written, {"a": "1", "b": "2"})
    second = save_tensors(tmp_path / "y", dict(reversed(written.items())), {"b": "2", "a": "1"})
    assert first == second == hashlib.sha256((tmp_path / "y").read_bytes()).hexdigest()


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(FileExistsError):
        save_tensors(tmp_path / "x", {"a": torch.ones(2)}, None)
