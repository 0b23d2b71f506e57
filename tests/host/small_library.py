"""A library of small LoRAs for two small bases, with broken and foreign files among them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lora_transfer.core.library.entry import TIMES, Entry
from lora_transfer.core.library.manifest import NAME
from lora_transfer.core.library.schedule import LibraryFile
from lora_transfer.core.plan import TransferSettings
from lora_transfer.core.resources import Resources
from lora_transfer.nodes.host.base.from_file import base_from_file
from lora_transfer.nodes.host.library.batch import Batch
from lora_transfer.nodes.host.library.files import find_files
from lora_transfer.nodes.host.library.run import batch_of, open_library, transfer_library
from lora_transfer.nodes.host.library.settings import LibrarySettings, compare_settings_for
from tests.host.small_families import write_small

FAMILY = "Wan 2.1 1.3B"


@dataclass(frozen=True)
class SmallLibrary:
    """Two related bases of a few layers, and a folder of LoRAs for the source."""

    source: Path
    target: Path
    loras: Path

    def batch(self, method: str = "restore_both", workers: int = 1, **settings: Any) -> Batch:
        chosen = LibrarySettings(
            compare_settings_for(method),
            TransferSettings(method, **{"threshold": 0.0, **settings}),  # pyright: ignore[reportArgumentType]
        )
        bases = (base_from_file(path, path.name) for path in (self.source, self.target))
        return batch_of(*bases, chosen, Resources(workers=workers))

    def files(self) -> list[LibraryFile]:
        return find_files([str(self.loras)])


def write_bases(folder: Path) -> tuple[Path, Path]:
    """A small Wan, and the same with noise on it."""
    source = write_small(folder / "source.safetensors", FAMILY, 1, torch.float16)
    return source, write_small(folder / "target.safetensors", FAMILY, 2, torch.float16, drifted_from=1)


def write_lora(path: Path, base: Path, seed: int, *, rank: int = 2, every: int = 1) -> Path:
    """A LoRA on every `every`-th matrix of the base's blocks, under ComfyUI's own names."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    weights = {key: value for key, value in load_file(base).items() if key.startswith("blocks.") and value.ndim == 2}
    for key in list(weights)[::every]:
        name, (rows, columns) = f"diffusion_model.{key.removesuffix('.weight')}", weights[key].shape
        tensors[f"{name}.lora_down.weight"] = (torch.randn(rank, columns, generator=generator) * 0.02).half()
        tensors[f"{name}.lora_up.weight"] = torch.randn(rows, rank, generator=generator).half()
        tensors[f"{name}.alpha"] = torch.tensor(float(rank))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"ss_network_dim": str(rank), "seed": str(seed), "a": "1", "b": "2", "c": "3"})
    return path


def write_library(folder: Path, count: int = 4) -> SmallLibrary:
    """`count` LoRAs, one of them in a subfolder, and a broken and a foreign file."""
    source, target = write_bases(folder)
    loras = folder / "loras"
    for index in range(count):
        sub = "styles/" if index == 1 else ""
        write_lora(loras / f"{sub}lora_{index}.safetensors", source, index, rank=1 + index % 3, every=1 + index % 2)
    (loras / "broken.safetensors").write_bytes(b"not a file of tensors")
    save_file({"lora_unet_down_blocks_9.lora_up.weight": torch.ones(3, 2)}, loras / "foreign.safetensors")
    return SmallLibrary(source, target, loras)


def run_all(library: SmallLibrary, out: Path, batch: Batch | None = None, **options: Any) -> list[Entry]:
    """Run what remains; returns the new entries."""
    batch = batch or library.batch()
    with open_library(out, **options) as opened:
        entries = list(transfer_library(opened, opened.remaining(library.files(), batch.job), batch, library.files()))
        opened.write_page()
    return entries


def bytes_in(out: Path) -> dict[str, str]:
    """Hashes of the results by path."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*")
        if path.is_file() and path.suffix not in (".jsonl", ".html") and path.name != "lock"
    }


def lines_in(out: Path) -> list[Mapping[str, Any]]:
    """The lines of the manifest without times, in the order of the LoRAs."""
    lines = [json.loads(line) for line in (out / NAME).read_text().splitlines()]
    lines = [{name: value for name, value in line.items() if name not in TIMES} for line in lines]
    return sorted(lines, key=lambda line: line["lora"])
