"""Makes Python whole on a bare machine: unpacks what the packed folder brings, and stubs what the run does not use.

In a checkout of the repository, which is not packed, the environment of run.py has everything, and nothing is stubbed.
"""

import importlib.abc
import importlib.machinery
import os
import sys
import types
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WHEELS, COMFYUI = ROOT / "wheels", ROOT / "ComfyUI.zip"
UNPACKED = ROOT / "unpacked"

# Packages that modules of ComfyUI import and that nothing here calls: the web server, films, sound, pictures on disk.
# A stub goes before an installed package, so that a run is the same on every machine.
STUBS = (
    *("aiohttp", "alembic", "av", "kornia", "pydantic", "pydantic_settings", "simpleeval"),
    *("spandrel", "sqlalchemy", "torchaudio", "torchsde", "torchvision", "server"),
)


def is_packed() -> bool:
    return COMFYUI.is_file()


def unpack() -> None:
    """Unpack wheels and ComfyUI below the packed folder, once."""
    done = UNPACKED / "done"
    if not is_packed() or done.is_file():
        return
    for archive, folder in ((COMFYUI, "ComfyUI"), *((wheel, "packages") for wheel in sorted(WHEELS.glob("*.whl")))):
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(UNPACKED / folder)
    done.touch()


def prepare(device: str) -> None:
    """Set up this process for our code and for ComfyUI on a device ("cuda" or "cpu").

    The repository's root leaves sys.path, for our `nodes` would hide ComfyUI's; our packages are found by name instead.
    """
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    if is_packed():
        unpack()
        os.environ["LORA_TRANSFER_COMFYUI"] = str(UNPACKED / "ComfyUI")
        sys.path.append(str(UNPACKED / "packages"))
        sys.meta_path.insert(0, _StubFinder())
    packages = {name: ROOT / name for name in ("benchmarks", "core", "dev", "tests")}
    for name, folder in (("lora_transfer", ROOT), *packages.items()):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules.setdefault(name, package)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["LORA_TRANSFER_TEST_DEVICE"] = device


def import_comfy(device: str, folder: Path) -> None:
    """ComfyUI inside this process, with its user, output and temporary folders below `folder`."""
    sys.path.insert(0, os.environ["LORA_TRANSFER_COMFYUI"])
    import comfy.cli_args

    comfy.cli_args.args.cpu = device == "cpu"  # must stand before the rest is imported: it looks for a card at once
    import folder_paths

    for name in ("user", "output", "temp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    folder_paths.set_user_directory(str(folder / "user"))
    folder_paths.set_output_directory(str(folder / "output"))
    folder_paths.set_temp_directory(str(folder / "temp"))


class _StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: Any = None) -> Any:
        if fullname.partition(".")[0] not in STUBS:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to run."""


class _Stub(types.ModuleType):
    """A module in which every name is a class that cannot be made: what is only imported works, what is used fails."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_Absent,), {"__module__": self.__name__})


class _Absent:
    def __init__(self, *_: object, **__: object) -> None:
        raise NotImplementedError(
            f"{type(self).__module__}.{type(self).__name__}: a stub of benchmarks/device, which packs no "
            f"{type(self).__module__}. Take it out of STUBS in benchmarks/device/bare.py, and into the wheels."
        )
