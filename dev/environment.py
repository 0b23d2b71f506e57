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
from .steps import run_quietly, step

# The CPU build if the index has it; the plain build brings gigabytes of CUDA. LORA_TRANSFER_TORCH overrides both.
TORCH = ("torch==2.13.0+cpu", "torch==2.13.0")
MATCHING_TORCH = ("torchvision==0.28.0", "torchaudio==2.11.0")


@dataclass(frozen=True)
class Environment:
    """A Python with torch and ComfyUI's requirements, and ComfyUI's folder."""

    python: Path
    comfyui: Path

    def variables(self) -> dict[str, str]:
        """The environment variables of a process: no look-ups on model hubs, and torchvision's stubs if built."""
        variables = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "LORA_TRANSFER_COMFYUI": str(self.comfyui)}
        if CUDA_STUBS.is_dir():
            variables["LD_LIBRARY_PATH"] = os.pathsep.join(
                filter(None, (str(CUDA_STUBS), os.environ.get("LD_LIBRARY_PATH")))
            )
        return {**os.environ, **variables}

    def run(self, *words: object) -> int:
        """Runs Python with these arguments at the root of the repository and returns its exit code. SIGTERM ends the
        child process too."""
        process = subprocess.Popen([str(self.python), *map(str, words)], env=self.variables(), cwd=ROOT)
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            return process.wait()
        except KeyboardInterrupt:  # the terminal sent Ctrl-C to both processes
            return process.wait()
        finally:
            signal.signal(signal.SIGTERM, before)


def set_up() -> Environment:
    """Makes the parts of the environment that are missing."""
    if sys.version_info < (3, 10):  # noqa: UP036  (an old Python fails here first)
        sys.exit(f"Python {sys.version.split()[0]}: expected 3.10 or newer. Start run.py with a newer one.")
    step("make_virtual_environment", (sys.base_prefix,), _make_venv)
    torch_wanted = os.environ.get("LORA_TRANSFER_TORCH")
    step("install_torch", (torch_wanted,), lambda: _install_torch(torch_wanted))
    tree = comfyui_tree()
    files = [ROOT / "requirements.txt", ROOT / "requirements-dev.txt"]
    wanted = [*MATCHING_TORCH, *requirements(tree), *(word for file in files for word in ("-r", str(file)))]
    step("install_requirements", (wanted, *(file.read_text() for file in files)), lambda: _install(*wanted))
    step("fit_torchvision_to_torch", (wanted,), _fit_torchvision)
    return Environment(PYTHON, tree)


def _make_venv() -> None:
    venv.create(VENV, with_pip=True, clear=True)
    run_quietly([PYTHON, "-m", "pip", "install", "-q", "setuptools", "wheel"])


def _install_torch(wanted: str | None) -> None:
    choices = (wanted,) if wanted else TORCH
    pip = [str(PYTHON), "-m", "pip", "install", "-q"]
    for choice in choices[:-1]:
        if subprocess.run([*pip, choice], capture_output=True, check=False).returncode == 0:
            break
    else:
        run_quietly([*pip, choices[-1]])
    (RUN / "constraints.txt").write_text(f"torch=={_torch()['version']}\n")


def _install(*wanted: str) -> None:
    run_quietly([PYTHON, "-m", "pip", "install", "-q", "-c", RUN / "constraints.txt", *wanted])


def _fit_torchvision() -> None:
    torch = _torch()
    if sys.platform == "linux" and torch["cuda"] is None:
        build_cuda_stubs(Path(torch["site_packages"]))


def _torch() -> dict[str, str]:
    """Version, CUDA version (None in a CPU build) and site-packages of the environment's torch."""
    code = (
        "import json, pathlib, torch; print(json.dumps({'version': torch.__version__, 'cuda': torch.version.cuda, "
        "'site_packages': str(pathlib.Path(torch.__file__).parent.parent)}))"
    )
    output = subprocess.run([str(PYTHON), "-c", code], capture_output=True, text=True, check=True).stdout
    return json.loads(output)
