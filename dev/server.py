"""Runs a real ComfyUI process with the pack, for the demo, the tests, and `run.py serve`."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import FrameType, TracebackType

from .client import ComfyClient
from .paths import DEMO_MODELS, DEMO_NODES, DEMO_PICTURES, PACK_FOLDER, ROOT

FOLDERS = (
    "models/checkpoints",
    "models/diffusion_models",
    "models/loras",
    "custom_nodes",
    "input",
    "output",
    "temp",
    "user/default",
)
FLAGS = ["--cpu", "--disable-auto-launch", "--disable-api-nodes", "--database-url", "sqlite:///:memory:"]
START_LIMIT = 300  # seconds; the first start compiles every module and took 56 s on two cores


class ComfyServer:
    """Starts ComfyUI on 127.0.0.1 in `base` (its models, input, output and user folder) and stops it at the end.

    front_end: a folder with another version of ComfyUI's page; None for the version that ComfyUI asks for."""

    def __init__(self, comfyui: Path, base: Path, port: int | None = None, front_end: Path | None = None) -> None:
        self.comfyui = comfyui
        self.base = base
        self.port = port or _free_port()
        self.flags = [*FLAGS, *(() if front_end is None else ("--front-end-root", str(front_end)))]
        self.log = base / "comfyui.log"

    def __enter__(self) -> ComfyClient:
        prepare_base(self.base)
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:  # the default would leave ComfyUI running
            signal.signal(signal.SIGTERM, _interrupt)
        command = [sys.executable, "main.py", "--listen", "127.0.0.1", "--port", str(self.port), *self.flags]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, "--base-directory", str(self.base)],
                cwd=self.comfyui,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its own process group, so that stopping it stops its children
            )
        client = ComfyClient(f"127.0.0.1:{self.port}")
        try:
            self._wait(client)
        except BaseException:
            self._stop()
            raise
        return client

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def peak_memory(self) -> int:
        """The peak resident memory of the process, in bytes (Linux)."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def _wait(self, client: ComfyClient) -> None:
        started = time.monotonic()
        while time.monotonic() - started < START_LIMIT:
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"ComfyUI exited with code {self._process.returncode} while it started:\n{self._tail()}"
                )
            try:
                client.get("/system_stats")
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.3)
            else:
                return
        raise RuntimeError(f"ComfyUI did not answer within {START_LIMIT} s:\n{self._tail()}")

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def _stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()


def _interrupt(number: int, _: FrameType | None) -> None:
    """Treats SIGTERM as Ctrl-C, so that a running server is stopped. A second SIGTERM must not interrupt that."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def prepare_base(base: Path) -> None:
    """Makes the folders that ComfyUI expects, adds the pack to its custom nodes, and turns off first-use dialogs."""
    for folder in FOLDERS:
        (base / folder).mkdir(parents=True, exist_ok=True)
    _add_nodes(ROOT, base / "custom_nodes" / PACK_FOLDER)
    settings = {"Comfy.TutorialCompleted": True, "Comfy.InstalledVersion": "1.47.12", "Comfy.Workflow.Persist": False}
    (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(settings))


def _add_nodes(nodes: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        try:
            folder.symlink_to(nodes, target_is_directory=True)
        except OSError:  # Windows, without permission for links
            shutil.copytree(nodes, folder, ignore=shutil.ignore_patterns(".*", "tests", "dev"))


def link_models(models: Path, base: Path) -> None:
    """Hard-links the files of `models` into a base folder, which saves a second copy on the disk."""
    for file in (path for path in models.rglob("*.safetensors") if path.is_file()):
        link = base / "models" / file.relative_to(models)
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.exists() and not link.samefile(file):
            link.unlink()  # git replaces a changed file with a new one
        if not link.exists():
            os.link(file, link)


def add_demo(base: Path) -> None:
    """Adds what the demo's workflow needs to a base folder: the trained models, the nodes with their prompts, and
    pictures to train on."""
    link_models(DEMO_MODELS, base)
    shutil.copytree(DEMO_PICTURES, base / "input" / DEMO_PICTURES.name, dirs_exist_ok=True)
    add_demo_nodes(base)


def add_demo_nodes(base: Path) -> None:
    _add_nodes(DEMO_NODES, base / "custom_nodes" / "lora_transfer_demo")


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
