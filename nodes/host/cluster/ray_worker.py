"""What Ray runs in a process of its own: a shell around a worker that starts where the pack cannot be imported yet.

Ray gets the class by value, and everything that it is told and says is pickled once more by the pack itself: Ray would
otherwise import the pack's modules before `start` has made that possible.
"""

import pickle
from typing import Any


class LoraWorker:
    """A worker in a process of Ray. It imports what it needs inside its methods: this module is not there."""

    def __init__(self, root: str, comfyui: str, cpu: bool) -> None:
        self._root, self._comfyui, self._cpu = root, comfyui, cpu
        self._worker: Any = None

    def start(self, order: bytes) -> bytes:
        """Open the bases. Returns a Ready, or a sentence why that is impossible."""
        import importlib.util
        from pathlib import Path

        if (Path(self._root) / "cli.py").is_file() and (Path(self._comfyui) / "comfy").is_dir():
            spec: Any = importlib.util.spec_from_file_location("lora_transfer_cli", Path(self._root) / "cli.py")
            cli = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(cli)
            cli.make_importable(Path(self._comfyui))
        else:
            reason = f"expected this pack at {self._root} and ComfyUI at {self._comfyui}, found no such folders"
            return pickle.dumps(f"Ray worker: {reason}. Put them at the same paths on every machine.")
        device = importlib.import_module("lora_transfer.nodes.host.command_line.device")
        device.choose_device(self._cpu)
        worker = importlib.import_module("lora_transfer.nodes.host.cluster.worker")
        started = worker.start_worker(pickle.loads(order))  # noqa: S301
        if isinstance(started, str):
            return pickle.dumps(started)
        self._worker, ready = started
        return pickle.dumps(ready)

    def transfer(self, task: bytes) -> bytes:
        """Transfer a BatchTask. Returns its entries."""
        return pickle.dumps(self._worker.transfer(pickle.loads(task)))  # noqa: S301
