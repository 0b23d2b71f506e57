"""ComfyUI's page in a newer version than ComfyUI asks for, to test the pack with both."""

import shutil
import zipfile

from .paths import PYTHON, RUN
from .steps import run_quietly, step

NEWEST = "1.58.1"
FOLDER = RUN / f"front_end_{NEWEST}"

_PACKAGE = f"comfyui-frontend-package=={NEWEST}"
_INSIDE = "comfyui_frontend_package/static/"


def download_front_end() -> None:
    step("get_newest_front_end", (_PACKAGE,), _unpack)


def _unpack() -> None:
    """Unpacks the page beside the environment. Installed, it would replace the version that ComfyUI asks for."""
    download = RUN / "download_front_end"
    shutil.rmtree(download, ignore_errors=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    run_quietly([PYTHON, "-m", "pip", "download", "-q", "--no-deps", "-d", download, _PACKAGE])
    (wheel,) = download.glob("*.whl")
    with zipfile.ZipFile(wheel) as package:
        package.extractall(download, [name for name in package.namelist() if name.startswith(_INSIDE)])
    (download / _INSIDE).rename(FOLDER)
    shutil.rmtree(download)
