"""Checks every import against the rules of the design in ARCHITECTURE.md."""

import ast
import re
import sys
from pathlib import Path

from lora_transfer.core.version import VERSION
from tests.conftest import ROOT

ALLOWED = {"torch", "numpy", "safetensors", "PIL", "scipy", "blake3", "threadpoolctl", *sys.stdlib_module_names}
COMFY = {"comfy", "comfy_extras", "comfy_execution", "folder_paths", "nodes", "server"}


def _levels() -> dict[str, int]:
    block = re.search(r"```levels\n(.*?)```", (ROOT / "ARCHITECTURE.md").read_text(), re.DOTALL)
    assert block, "ARCHITECTURE.md has no block of levels"
    lines = block[1].strip().splitlines()
    return {name.strip(): level for level, line in enumerate(lines) for name in line.split(",")}


def _imports(path: Path) -> list[tuple[int, str]]:
    """(dots, module) of every import of a file; `from . import x` counts as x."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.level, node.module)] if node.module else [(node.level, one.name) for one in node.names]
    return found


def _core_files() -> dict[Path, str]:
    """Every file of core with the name of its module or folder in the list of levels.

    core/__init__.py is the public face above all levels: nothing in core imports it.
    """
    core = ROOT / "core"
    files = [path for path in core.rglob("*.py") if path != core / "__init__.py"]
    return {path: path.relative_to(core).parts[0].removesuffix(".py") for path in files}


def test_every_module_of_core_stands_in_the_list_of_levels() -> None:
    assert set(_core_files().values()) == set(_levels())


def test_core_imports_point_down_only() -> None:
    levels = _levels()
    for path, name in _core_files().items():
        inside = len(path.relative_to(ROOT / "core").parts)  # dots that lead to core itself
        for dots, module in _imports(path):
            if dots == inside:
                assert levels[module.split(".")[0]] < levels[name], f"{path.name} imports {module}"


def test_core_imports_nothing_of_the_host() -> None:
    for path in _core_files():
        for dots, module in _imports(path):
            assert dots or module.split(".")[0] in ALLOWED, f"{path.name} imports {module}"


def test_only_nodes_host_imports_comfyui() -> None:
    for path in (ROOT / "nodes").glob("*.py"):
        for dots, module in _imports(path):
            assert dots or module.split(".")[0] not in COMFY, f"{path.name} imports {module}"


def test_files_stay_short() -> None:
    for folder in ("core", "nodes", "dev"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 250, path


def test_the_version_is_the_same_everywhere() -> None:
    assert f'version = "{VERSION}"' in (ROOT / "pyproject.toml").read_text()
