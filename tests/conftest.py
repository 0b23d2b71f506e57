"""Makes the pack importable as `lora_transfer`, the way ComfyUI imports it: as a package in a folder of any name.

The root must never be on sys.path: our `nodes/` would shadow ComfyUI's nodes.py.
"""

import sys
import types
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def _alias(name: str, folder: Path) -> None:
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


_alias("lora_transfer", ROOT)
_alias("dev", ROOT / "dev")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20260131)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device at hand"))
