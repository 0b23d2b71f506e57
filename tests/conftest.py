"""Makes the pack importable as `lora_transfer`, as ComfyUI does: a package in a folder of any name.

The root must never be on sys.path: our `nodes/` would shadow ComfyUI's nodes.py.
"""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).resolve().parent.parent

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

for _name, _folder in (("lora_transfer", ROOT), ("dev", ROOT / "dev"), ("tests", ROOT / "tests")):
    _package = types.ModuleType(_name)
    _package.__path__ = [str(_folder)]
    sys.modules[_name] = _package


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """BLAS libraries wait for their threads by spinning: on two cores that something else keeps busy too, a
    decomposition of 200 x 300 takes 0.27 s on two threads and 0.002 s on one."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20260131)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`, keeps the tests of a file in one process, because they share a server, and all tests of
    the page. (`--dist loadgroup` does nothing with this version of pytest.)"""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByServer(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "web" if "web/test_" in nodeid else super()._split_scope(nodeid)

    return ByServer(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device at hand"))
