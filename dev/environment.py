"""The virtual environment in which ComfyUI, the tests and the benchmarks run."""

import json
import os
import signal
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from .comfyui import comfyui_tree, requirements
from .cuda_stubs import build_cuda_stubs
from .paths import CUDA_STUBS, PYTHON, ROOT, RUN, VENV
from .steps import quietly, step

# The CPU build where the index offers it: the plain one brings gigabytes of CUDA. LORA_TRANSFER_TORCH overrides both.
TORCH = ("torch==2.13.0+cpu", "torch==2.13.0")
MATCHING_TORCH = ("torchvision==0.28.0", "torchaudio==2.11.0")


@dataclass(frozen=True)
class Environment:
    """A python with torch and ComfyUI's requirements, and ComfyUI's folder."""

    python: Path
    comfyui: Path

    def variables(self) -> dict[str, str]:
        """The process environment: no look-ups on model hubs, and torchvision's stubs where they were needed."""
        ours = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "LORA_TRANSFER_COMFYUI": str(self.comfyui)}
        if CUDA_STUBS.is_dir():
            ours["LD_LIBRARY_PATH"] = os.pathsep.join(
                filter(None, (str(CUDA_STUBS), os.environ.get("LD_LIBRARY_PATH")))
            )
        return {**os.environ, **ours}

    def run(self, *words: object) -> int:
        """Run python with these arguments at the root of the repository; its exit code. Ended from outside, it ends
        with what it started."""
        process = subprocess.Popen([str(self.python), *map(str, words)], env=self.variables(), cwd=ROOT)
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            return process.wait()
        except KeyboardInterrupt:  # the terminal has sent it to both
            return process.wait()
        finally:
            signal.signal(signal.SIGTERM, before)


def set_up() -> Environment:
    """Make what is missing; a second call takes no time."""
    if sys.version_info < (3, 10):  # noqa: UP036  (run.py is what meets an old Python first)
        sys.exit(f"Python {sys.version.split()[0]}: expected 3.10 or newer. Start run.py with a newer one.")
    step("make_virtual_environment", (sys.base_prefix,), _make_venv)
    torch_wanted = os.environ.get("LORA_TRANSFER_TORCH")
    step("install_torch", (torch_wanted,), lambda: _install_torch(torch_wanted))
    tree = comfyui_tree()
    ours = [ROOT / "requirements.txt", ROOT / "requirements-dev.txt"]
    wanted = [*MATCHING_TORCH, *requirements(tree), *(word for file in ours for word in ("-r", str(file)))]
    step("install_requirements", (wanted, *(file.read_text() for file in ours)), lambda: _install(*wanted))
    step("fit_torchvision_to_torch", (wanted,), _fit_torchvision)
    return Environment(PYTHON, tree)


def _make_venv() -> None:
    venv.create(VENV, with_pip=True, clear=True)
    quietly([PYTHON, "-m", "pip", "install", "-q", "setuptools", "wheel"])


def _install_torch(wanted: str | None) -> None:
    choices = (wanted,) if wanted else TORCH
    pip = [str(PYTHON), "-m", "pip", "install", "-q"]
    for choice in choices[:-1]:
        if subprocess.run([*pip, choice], capture_output=True, check=False).returncode == 0:
            break
    else:
        quietly([*pip, choices[-1]])
    (RUN / "constraints.txt").write_text(f"torch=={_torch()['version']}\n")


def _install(*wanted: str) -> None:
    quietly([PYTHON, "-m", "pip", "install", "-q", "-c", RUN / "constraints.txt", *wanted])


def _fit_torchvision() -> None:
    found = _torch()
    if sys.platform == "linux" and found["cuda"] is None:
        build_cuda_stubs(Path(found["site_packages"]))


def _torch() -> dict[str, str]:
    """Version, CUDA version (None in a CPU build) and site-packages of the environment's torch."""
    code = (
        "import json, pathlib, torch; print(json.dumps({'version': torch.__version__, 'cuda': torch.version.cuda, "
        "'site_packages': str(pathlib.Path(torch.__file__).parent.parent)}))"
    )
    output = subprocess.run([str(PYTHON), "-c", code], capture_output=True, text=True, check=True).stdout
    return json.loads(output)
