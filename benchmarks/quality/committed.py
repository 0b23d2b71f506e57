"""Reads and writes the committed weights: weights/, laid out as ComfyUI's model folders. The demo shows them.

    python -m benchmarks.quality.committed [FOLDER]

FOLDER holds the benchmark's weights; the default is .run/bench_quality. Files whose content stays the same are not
written again.
"""

import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dev.paths import RUN

from .bases import ModelStore
from .families import FAMILIES, FLUX, Family
from .latents import Latents, load
from .text import pool

WEIGHTS = Path(__file__).parent / "weights"
VAE = WEIGHTS / "vae/emoji_vae.safetensors"
POINTS = Path(__file__).parent / "points_lora_x.zip"
LICENSE = "Apache-2.0; drawings: Noto Emoji (Apache-2.0), Fluent Emoji (MIT)"
BASES = {
    "A": ("emoji_source", "Trained on the drawings of Noto Emoji."),
    "drifted": (
        "emoji_target",
        "emoji_source, trained further on Noto's faces in exchanged colours and on Fluent's flat ones.",
    ),
    "pruned": (
        "emoji_pruned",
        "emoji_source without one double block and two single ones, trained further to answer as before.",
    ),
    "other": ("emoji_stranger", "Trained on the drawings of Noto Emoji, as emoji_source was, but from another seed."),
}

EVALUATED = [f"{lora}.{base}.0" for lora in ("line_16", "3d_16") for base in BASES]
STYLES = ("line", "3d", "noto", "noto recoloured")  # those of the LoRAs and of the targets


def committed_store(family: Family) -> ModelStore:
    """A store with the committed weights, which has nothing to train."""
    folder = WEIGHTS / "evaluation"
    return ModelStore(family, load(folder / "latents.safetensors"), folder, committed_files())


def committed_files() -> dict[str, Path]:
    """The committed files of the transformer, by their names in the store; the whole run does not train these."""
    bases = {f"{name}.0": WEIGHTS / f"diffusion_models/{title}.safetensors" for name, (title, _) in BASES.items()}
    return bases | {name: WEIGHTS / f"evaluation/{name}.safetensors" for name in EVALUATED}


def stores(latents: Latents, folder: Path) -> list[ModelStore]:
    """The stores of both families. They train what is neither in `folder` nor committed."""
    known = {FLUX.name: committed_files()}
    return [
        ModelStore(family, latents, folder / family.name, known.get(family.name, {})) for family in FAMILIES.values()
    ]


def unpack_points(folder: Path) -> None:
    """Writes the committed points of the tables on LoRA-X, unless the folder has points of its own."""
    if not folder.exists():
        with zipfile.ZipFile(POINTS) as archive:
            archive.extractall(folder)


def _pack_points(folder: Path) -> None:
    """Packs the points of the tables on LoRA-X; equal points give equal bytes."""
    with zipfile.ZipFile(POINTS, "w") as archive:
        for path in sorted(folder.glob("*.json")):
            archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED, 9)


def write(folder: Path, weights: Path = WEIGHTS) -> None:
    """Copies weights from the benchmark's folder to files that ComfyUI's loaders read, about 35 MB of float16."""
    trained = folder / "flux"
    for name, (title, description) in BASES.items():
        about = _about(title, f"{description} A small denoiser of Flux's layout.")
        _copy(trained / f"{name}.0.safetensors", weights / f"diffusion_models/{title}.safetensors", about)
    for name in EVALUATED:  # --quick needs LoRAs trained on each base
        _copy(trained / f"{name}.safetensors", weights / f"evaluation/{name}.safetensors", _about(name, "LoRA"))
    about = _about(
        "emoji_line_art", "Black-and-white line art: trained on emoji_source with Fluent's high-contrast drawings."
    )
    lora = load_file(weights / "evaluation/line_16.A.0.safetensors")
    _write(_with_comfy_names(lora), weights / "loras/emoji_line_art.safetensors", about)
    about = _about("emoji_vae", "A TAESD with 16 channels, trained on the drawings of every style.")
    _copy(folder / "autoencoder.safetensors", weights / "vae/emoji_vae.safetensors", about)
    _write_drawings(folder / "latents.safetensors", weights / "evaluation/latents.safetensors")
    _write_prompts(folder / "latents.safetensors", weights / "emoji_prompts/emoji_prompts.safetensors")
    if (points := folder / "results_lora_x").is_dir():
        _pack_points(points)


def _write_drawings(latents: Path, path: Path) -> None:
    """Writes the drawings that --quick measures on: some styles, all variants of each subject."""
    with safe_open(latents, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in ("context", *STYLES)}
        names = file.metadata()["names"]
    _write(tensors, path, {"names": names})


def _with_comfy_names(factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames <layer>.weight.up (m, r) and .down (r, n) to ComfyUI's generic names; alpha = rank makes the scale 1."""
    tensors: dict[str, Tensor] = {}
    for key, value in factors.items():
        layer, _, part = key.rpartition(".weight.")
        tensors[f"diffusion_model.{layer}.lora_{part}.weight"] = value
        if part == "down":
            tensors[f"diffusion_model.{layer}.alpha"] = torch.tensor(float(len(value))).half()
    return tensors


def _write_prompts(latents: Path, path: Path) -> None:
    """Writes context (prompts, 10, 384) and pooled (prompts, 384); the metadata holds the prompts, one a line."""
    with safe_open(latents, "pt") as file:
        context, names = file.get_tensor("context"), file.metadata()["names"]
    description = "What all-MiniLM-L6-v2 (Apache-2.0) says of the English names of emoji."
    tensors = {"context": context.half(), "pooled": pool(context.float()).half()}
    _write(tensors, path, {**_about("emoji_prompts", description), "names": names})


def _about(title: str, description: str) -> dict[str, str]:
    return {
        "modelspec.title": title,
        "modelspec.description": f"{description} Made by benchmarks/quality, for demonstration.",
        "modelspec.license": LICENSE,
    }


def _copy(trained: Path, path: Path, metadata: dict[str, str]) -> None:
    """Copies a file if it was trained; otherwise the committed one stays."""
    if trained.is_file():
        _write(load_file(trained), path, metadata)


def _write(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    if path.is_file() and _same(tensors, path, metadata):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    save_file({key: value.contiguous() for key, value in tensors.items()}, unfinished, metadata)
    unfinished.replace(path)
    print(f"{path.relative_to(path.parent.parent)}: {path.stat().st_size / 1e6:.1f} MB", flush=True)


def _same(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> bool:
    """Compares tensors and metadata. Bytes would differ: safetensors writes metadata in random order."""
    with safe_open(path, "pt") as file:
        kept = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is no mapping)
        return (
            file.metadata() == metadata
            and kept.keys() == tensors.keys()
            and all(torch.equal(value, tensors[key]) for key, value in kept.items())
        )


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else RUN / "bench_quality")
