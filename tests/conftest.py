"""Makes the pack importable as `lora_transfer`, as ComfyUI does: a package in a folder of any name.

The root must never be on sys.path: our `nodes/` would shadow ComfyUI's nodes.py.
"""

import sys
import types
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

for _name, _folder in (("lora_transfer", ROOT), ("dev", ROOT / "dev"), ("tests", ROOT / "tests")):
    _package = types.ModuleType(_name)
    _package.__path__ = [str(_folder)]
    sys.modules[_name] = _package


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20260131)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device at hand"))
