"""Writes small SD1.5 checkpoints and a kohya LoRA that ComfyUI's loaders accept, for the tests and `run.py serve`.

Nothing is trained: the weights are random. A clear path leads through the UNet, so that its prediction is the input
minus a blurred input. Sampling then gives smooth coloured shapes instead of noise, and the effect of the random layers,
and of a LoRA on them, becomes visible. Run `python -m dev.small_models FOLDER` in the environment that run.py makes.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

CONTEXT = 768  # width of CLIP-L, by which ComfyUI recognises SD1.5
WIDTH = 320  # the model_channels by which ComfyUI recognises SD1.5
CLEAR = 8  # channels of the clear path: four latents with both signs, because silu(x) - silu(-x) = x
GROUP = WIDTH // 32  # a group norm must not mix the clear path with the rest
CLEAR_GAIN, CLEAR_BLUR = 1.6, 1.25  # prediction = gain * input - blur * blurred input: noise goes, shapes stay
LAYER_SHARE = 0.03  # share of the random layers in the prediction
ENDS = 0.01  # share of a change on both ends of the clear path; with more, noise hides everything

BLUR = torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0])) / 16


def write_checkpoint(
    path: Path,
    seed: int = 0,
    *,
    drifted_from: Path | None = None,
    drift: float = 0.3,
    levels: int = 2,
    include_clip: bool = True,
) -> Path:
    """Writes an SD1.5 checkpoint in float16. With `drifted_from` it is that checkpoint with noise of relative norm
    `drift` on every matrix of the UNet (less at both ends of the clear path); VAE and text encoder stay the same."""
    generator = torch.Generator().manual_seed(seed)
    if drifted_from is not None:
        tensors = {key: _drift(key, value, drift, generator) for key, value in load_file(drifted_from).items()}
    else:
        tensors = {f"model.diffusion_model.{key}": value for key, value in _unet(levels, generator).items()}
        tensors |= {f"first_stage_model.{key}": value for key, value in _vae().items()}
        if include_clip:
            tensors |= {f"cond_stage_model.{key}": value for key, value in _text_encoder(generator).items()}
    save_file({key: value.half().contiguous() for key, value in tensors.items()}, path)
    return path


def write_lora(
    path: Path, checkpoint: Path, *, rank: int = 8, alpha: float = 4.0, seed: int = 1, strength: float = 0.25
) -> Path:
    """Writes a kohya LoRA for every matrix of the checkpoint's UNet that has a diffusers name.

    The Frobenius norm of each delta is `strength` times that of its weight (less at both ends of the clear path)."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    weights = load_file(checkpoint)
    for module, key in kohya_modules(checkpoint).items():
        weight = weights[key]
        down = torch.randn(rank, *weight.shape[1:], generator=generator)
        up = torch.randn(weight.shape[0], rank, generator=generator)
        share = strength * (ENDS if module.endswith(("conv_in", "conv_out")) else 1)
        up *= share * weight.float().norm() / ((up @ down.flatten(1)).norm() * alpha / rank)
        tensors[f"{module}.lora_up.weight"] = up.reshape(-1, rank, *(1 for _ in weight.shape[2:])).half()
        tensors[f"{module}.lora_down.weight"] = down.half()
        tensors[f"{module}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path, metadata=_kohya_metadata(rank, alpha))
    return path


def write_all(folder: Path) -> None:
    """Writes two bases and a LoRA into ComfyUI's folders; existing files stay."""
    source = folder / "checkpoints" / "small_source.safetensors"
    target = folder / "checkpoints" / "small_target.safetensors"
    lora = folder / "loras" / "small_lora.safetensors"
    for path in (source, lora):
        path.parent.mkdir(parents=True, exist_ok=True)
    if not source.exists():
        _write_atomically(source, lambda path: write_checkpoint(path))
    if not target.exists():
        _write_atomically(target, lambda path: write_checkpoint(path, 2, drifted_from=source))
    if not lora.exists():
        _write_atomically(lora, lambda path: write_lora(path, source))


def kohya_modules(checkpoint: Path) -> dict[str, str]:
    """Maps kohya's module names to the checkpoint's keys for every UNet matrix, by ComfyUI's own table."""
    comfy = import_comfy()
    prefix = "model.diffusion_model."
    weights = {
        key.removeprefix(prefix): value for key, value in load_file(checkpoint).items() if key.startswith(prefix)
    }
    config = comfy.model_detection.model_config_from_unet(weights, "")
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    return {
        "lora_unet_" + name.removesuffix(".weight").replace(".", "_"): prefix + key
        for name, key in names.items()
        if key in weights and weights[key].ndim >= 2
    }


def import_comfy() -> Any:
    """Imports ComfyUI's package `comfy` into this process, for the CPU."""
    tree = os.environ["LORA_TRANSFER_COMFYUI"]
    if tree not in sys.path:
        sys.path.insert(0, tree)  # before the repository, whose `nodes` would hide ComfyUI's
    import comfy.cli_args

    comfy.cli_args.args.cpu = True  # must come before the other imports, which look for a card
    import comfy.lora
    import comfy.model_detection
    import comfy.sd1_clip
    import comfy.taesd.taesd

    return comfy


def _unet(levels: int, generator: torch.Generator) -> dict[str, Tensor]:
    comfy = import_comfy()
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    depth = [0] * (levels - 1) + [1]  # attention on the last level only keeps 256 px images fast on two cores
    model = UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=WIDTH,
        num_res_blocks=[1] * levels,
        channel_mult=[1] * levels,
        transformer_depth=depth,  # pyright: ignore[reportArgumentType]  (ComfyUI's annotation says int; it takes a list)
        transformer_depth_output=[value for value in depth for _ in range(2)],
        transformer_depth_middle=-2,
        num_heads=8,
        use_spatial_transformer=True,
        context_dim=CONTEXT,
        operations=comfy.ops.disable_weight_init,
    )
    weights = {key: _random(key, value, generator) for key, value in model.state_dict().items()}
    return _with_clear_path(weights)


def _with_clear_path(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leads the input past the random layers: conv_in -> its skip connection -> the last block -> conv_out."""
    last = max(int(key.split(".")[1]) for key in weights if key.startswith("output_blocks."))
    signs = torch.eye(4).repeat_interleave(2, 0) * torch.tensor([1.0, -1.0]).repeat(4)[:, None]  # (8, 4)
    first = weights["input_blocks.0.0.weight"]
    first[:GROUP] = 0
    first[:CLEAR, :, 1, 1] = signs
    skip = weights[f"output_blocks.{last}.0.skip_connection.weight"]  # (WIDTH, 2 * WIDTH, 1, 1)
    skip[:GROUP] = 0
    skip[:CLEAR, WIDTH : WIDTH + CLEAR, 0, 0] = torch.eye(CLEAR)
    for key in (f"output_blocks.{last}.0.out_layers.3.weight", f"output_blocks.{last}.1.proj_out.weight"):
        if key in weights:
            weights[key][:GROUP] = 0
    final = weights["out.2.weight"]  # (4, WIDTH, 3, 3)
    final[:] = final.sum((2, 3), keepdim=True) * BLUR * LAYER_SHARE
    final[:, :GROUP] = 0
    kernel = -CLEAR_BLUR * BLUR
    kernel[1, 1] += CLEAR_GAIN
    final[:, :CLEAR] = signs.mT[:, :, None, None] * kernel
    return weights


def _vae() -> dict[str, Tensor]:
    """A TAESD whose decoder shows the smoothed colours of the latents, by ComfyUI's linear preview factors."""
    comfy = import_comfy()
    model = comfy.taesd.taesd.TAESD()
    weights = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    signs = torch.eye(4).repeat_interleave(2, 0) * torch.tensor([1.0, -1.0]).repeat(4)[:, None]  # (8, 4)
    latents = comfy.latent_formats.SD15()
    convolutions = [key for key in weights if key.startswith("taesd_decoder.") and key.count(".") == 2]
    first, *smoothing, last = [key for key in convolutions if key.endswith(".weight")]
    weights[first][:CLEAR, :, 1, 1] = signs
    for key in smoothing:
        weights[key][range(64), range(64)] = BLUR
    colours = torch.tensor(latents.latent_rgb_factors)  # (4, 3)
    weights[last][:, :CLEAR, 1, 1] = (signs @ colours).mT / 4  # 2 would suit real latents; these have larger values
    weights[last.replace("weight", "bias")] += 0.5
    weights["vae_scale"] += latents.scale_factor
    return weights


def _text_encoder(generator: torch.Generator) -> dict[str, Tensor]:
    """A random CLIP-L of full size, because ComfyUI accepts no smaller one."""
    comfy = import_comfy()
    weights = comfy.sd1_clip.SDClipModel(dtype=torch.float32).state_dict()
    return {key: _random(key, value, generator) for key, value in weights.items() if key.startswith("transformer.")}


def _random(key: str, value: Tensor, generator: torch.Generator) -> Tensor:
    """Random weights that keep a signal's variance: matrices scaled by 1/sqrt(inputs), norms 1, biases 0."""
    if value.ndim < 2:
        return torch.zeros(value.shape) if key.endswith("bias") else torch.ones(value.shape)
    return torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5


def _drift(key: str, value: Tensor, drift: float, generator: torch.Generator) -> Tensor:
    if not key.startswith("model.diffusion_model.") or value.ndim < 2:
        return value
    noise = torch.randn(value.shape, generator=generator)
    share = drift * (ENDS if key.endswith(("input_blocks.0.0.weight", "out.2.weight")) else 1)
    return value.float() + noise * (share * value.float().norm() / noise.norm())


def _kohya_metadata(rank: int, alpha: float) -> dict[str, str]:
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
        "ss_base_model_version": "sd_v1",
        "ss_tag_frequency": json.dumps({"1_smallstyle": {"smallstyle": 12}}),
        "modelspec.title": "small LoRA",
        "modelspec.trigger_phrase": "smallstyle",
    }


def _write_atomically(path: Path, write: Any) -> None:
    """Writes under another name and renames, so that an interrupted run leaves no partial file."""
    print(f"writing {path.name} ...", flush=True)
    unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
    write(unfinished)
    os.replace(unfinished, path)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
