"""Builds stub libraries, so that torchvision and torchaudio load with a torch without CUDA.

ComfyUI imports both, and their Linux wheels are CUDA builds that need libc10_cuda and libtorch_cuda. Two small
libraries with the missing symbols satisfy the loader. The device count is 0, so no other symbol is ever called.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .paths import CUDA_STUBS
from .steps import run_quietly

LIBRARIES = ("libc10_cuda.so", "libtorch_cuda.so")


def build_cuda_stubs(site_packages: Path) -> None:
    """Builds the two libraries in CUDA_STUBS, and links the CUDA runtime from torchvision's wheel."""
    if missing_tools := [tool for tool in ("gcc", "nm") if shutil.which(tool) is None]:
        sys.exit(
            f"\nTorchvision needs stubs to load with a torch without CUDA, but {' and '.join(missing_tools)} was not "
            "found. Install gcc and binutils, or set LORA_TRANSFER_TORCH to a torch with CUDA."
        )
    CUDA_STUBS.mkdir(parents=True, exist_ok=True)
    wheels = [path for name in ("torchvision", "torchaudio") for path in (site_packages / name).rglob("*.so")]
    torch_libraries = [site_packages / "torch" / "lib" / name for name in ("libtorch_cpu.so", "libc10.so")]
    missing = _symbols(wheels, "--undefined-only") - _symbols(torch_libraries, "--defined-only")
    # The runtime's own symbols (cudaMalloc, ...) come from the bundled libcudart.
    wanted = sorted(name for name in missing if "cuda" in name.lower() and not name.startswith(("cuda", "__cuda")))
    source = CUDA_STUBS / "stubs.c"
    source.write_text("#include <stdlib.h>\n" + "\n".join(_stub(*item) for item in enumerate(wanted)))
    for library in LIBRARIES:
        run_quietly(["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{library}", "-o", CUDA_STUBS / library, source])
    for runtime in (site_packages / "torchvision.libs").glob("libcudart.*.so.*"):
        link = CUDA_STUBS / f"libcudart.so.{runtime.name.rsplit('.', 1)[1]}"
        link.unlink(missing_ok=True)
        os.symlink(runtime, link)


def _stub(index: int, symbol: str) -> str:
    body = "return 0;" if "device_count" in symbol else "abort();"
    return f'int stub_{index}(void) __asm__("{symbol}"); int stub_{index}(void) {{ {body} }}'


def _symbols(libraries: list[Path], which: str) -> set[str]:
    command = ["nm", "-D", which, *map(str, libraries)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {line.split()[-1].split("@")[0] for line in listing.splitlines() if len(line.split()) > 1}
