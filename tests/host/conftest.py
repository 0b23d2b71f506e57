"""A real ComfyUI: inside this process for its names and readers, and as a server of its own for graphs."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dev.client import ComfyClient
from dev.paths import SMALL_MODELS
from dev.server import ComfyServer, add_demo, link_models
from dev.small_models import import_comfy, write_all, write_checkpoint, write_lora

import_comfy()  # before any test module imports lora_transfer.nodes


@dataclass(frozen=True)
class SmallPair:
    """Two small SD1.5 checkpoints without text encoder, one drifted from the other, and a LoRA on every layer."""

    source: Path
    target: Path
    lora: Path


@dataclass(frozen=True)
class Host:
    """A running ComfyUI with the pack, and the folder with its models and outputs."""

    client: ComfyClient
    base: Path
    log: Path

    def loras_written(self) -> set[str]:
        return {path.name for path in (self.base / "output").rglob("*.safetensors*")}


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SmallPair:
    folder = tmp_path_factory.mktemp("pair")
    source = write_checkpoint(folder / "source.safetensors", include_clip=False)
    target = write_checkpoint(folder / "target.safetensors", 2, drifted_from=source)
    return SmallPair(source, target, write_lora(folder / "lora.safetensors", source))


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    write_all(SMALL_MODELS)
    base = SMALL_MODELS.parent / f"test_host{os.environ.get('PYTEST_XDIST_WORKER', '')}"  # one for each process
    link_models(SMALL_MODELS, base)
    add_demo(base)
    shutil.rmtree(base / "user" / "lora_transfer", ignore_errors=True)  # what an earlier version of the code kept
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the server; why: one_thread in tests/conftest.py
    server = ComfyServer(Path(os.environ["LORA_TRANSFER_COMFYUI"]), base)
    with server as client:
        yield Host(client, base, server.log)
