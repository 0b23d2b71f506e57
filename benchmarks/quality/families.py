"""The two families of denoisers, of ComfyUI's classes: a UNet with SD1.5's layout, a transformer with Flux's.

Both use the same latents (16, 8, 8) and prompts, so that a transfer between the families can be measured too.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dev.small_models import import_comfy

from .autoencoder import CHANNELS
from .checkpoints import initialise
from .text import WIDTH, pool

State = Mapping[str, Tensor]
Shape = Literal["whole", "pruned", "stump", "wide"]  # stump: a third of the blocks; the transformer only


@dataclass(frozen=True)
class Family:
    """How one kind of denoiser is built, called and trained. A level (n) in [0, 1] says how much noise there is.

    add_noise: (clean, noise, level) -> the denoiser's input.
    aim: (clean, noise) -> the answer that it should give.
    denoise: (noised, answer, level) -> the clean latents that the answer implies.
    noise: (denoised, answer) -> the noise that the answer implies.
    sigma: level -> ComfyUI's sigma; an error of the denoised latents divided by it is the error of the answer.
    pruned: for each pruned shape, the start of a layer's name in the child -> in the whole model.
    adds_in_place: whether the model changes tensors in place that the backward pass still needs.
    """

    name: str
    build: Callable[[Shape], nn.Module]
    call: Callable[[nn.Module, State, Tensor, Tensor, Tensor], Tensor]
    add_noise: Callable[[Tensor, Tensor, Tensor], Tensor]
    aim: Callable[[Tensor, Tensor], Tensor]
    denoise: Callable[[Tensor, Tensor, Tensor], Tensor]
    noise: Callable[[Tensor, Tensor], Tensor]
    sigma: Callable[[Tensor], Tensor]
    pruned: Mapping[Shape, Mapping[str, str]]
    adds_in_place: bool = False

    def predict(self, model: nn.Module, weights: State, noised: Tensor, level: Tensor, context: Tensor) -> Tensor:
        """The denoiser's answer with these weights, computed in bfloat16."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.call(model, weights, noised, level, context).float()

    def shares(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """The shares of clean latents and of noise in noised latents, (n) each."""
        ones, zeros = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        return self.add_noise(ones, zeros, level).flatten(), self.add_noise(zeros, ones, level).flatten()

    def noise_ratio(self, level: Tensor) -> Tensor:
        """The ratio (n) of noise to clean latents, which means the same in every family."""
        clean, noise = self.shares(level)
        return noise / clean

    def gradients(self) -> AbstractContextManager[Any]:
        """A context in which the backward pass works: tensors that it needs are copied before the model changes them.

        Do not use allow_mutation_on_saved_tensors: the training of the wide transformer then failed in the backward
        pass (torch 2.13: "t() expects a tensor with <= 2 dimensions"), probably because it identifies tensors by id."""
        if not self.adds_in_place:
            return nullcontext()
        return torch.autograd.graph.saved_tensors_hooks(_copy_unless_leaf, lambda saved: saved)

    def pruned_weights(self, weights: State, shape: Shape) -> dict[str, Tensor]:
        """The weights of the whole model that its pruned child starts from."""
        return {key: weights[self.origin(key, shape)].clone() for key in self.build(shape).state_dict()}

    def origin(self, key: str, shape: Shape) -> str:
        """The parameter of the whole model that a parameter of the pruned child was copied from."""
        for start, whole_start in self.pruned[shape].items():
            if key.startswith(start):
                return whole_start + key.removeprefix(start)
        return key


def _copy_unless_leaf(saved: Tensor) -> Tensor:
    """Copies everything but weights, which no model changes in place."""
    return saved if saved.is_leaf else saved.clone()


def _at(values: Tensor, level: Tensor) -> Tensor:
    return values[(level * len(values)).long().clamp(max=len(values) - 1)][:, None, None, None]


# SD1.5's noise schedule: the share of the signal's variance that is left at each of 1,000 levels.
_SIGNAL = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0).float()


def _add_unet_noise(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    share = _at(_SIGNAL, level)
    return share.sqrt() * clean + (1 - share).sqrt() * noise


def _denoise_unet(noised: Tensor, answer: Tensor, level: Tensor) -> Tensor:
    share = _at(_SIGNAL, level)
    return (noised - (1 - share).sqrt() * answer) / share.sqrt()


def _unet(shape: Shape) -> nn.Module:
    comfy = _comfy()
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    blocks = [1, 1] if shape == "pruned" else [2, 2]
    model = UNetModel(
        image_size=8,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        model_channels=96 if shape == "wide" else 64,
        num_res_blocks=blocks,
        channel_mult=[1, 1] if shape == "wide" else [1, 2],
        transformer_depth=[1] * sum(blocks),  # pyright: ignore[reportArgumentType]  (the host says int, takes a list)
        transformer_depth_output=[1] * (sum(blocks) + len(blocks)),
        transformer_depth_middle=1,
        num_heads=4,
        use_spatial_transformer=True,
        context_dim=WIDTH,
        operations=comfy.ops.disable_weight_init,
    )
    return initialise(model, zero=("out_layers.3", "proj_out", "out.2"))


def _call_unet(model: nn.Module, weights: State, noised: Tensor, level: Tensor, context: Tensor) -> Tensor:
    step = (level * len(_SIGNAL)).long().clamp(max=len(_SIGNAL) - 1)
    return functional_call(model, dict(weights), (noised, step), {"context": context})


UNET = Family(
    name="unet",
    build=_unet,
    call=_call_unet,
    add_noise=_add_unet_noise,
    aim=lambda clean, noise: noise,
    denoise=_denoise_unet,
    noise=lambda denoised, answer: answer,
    sigma=lambda level: ((1 - _at(_SIGNAL, level)) / _at(_SIGNAL, level)).sqrt().flatten(),
    # Each level has one residual block with attention less, down and up, as in KOALA.
    pruned={
        "pruned": {
            "input_blocks.2.": "input_blocks.3.",
            "input_blocks.3.": "input_blocks.4.",
            "output_blocks.1.": "output_blocks.2.",
            "output_blocks.2.": "output_blocks.3.",
            "output_blocks.3.": "output_blocks.5.",
        }
    },
)


def _flux(shape: Shape) -> nn.Module:
    comfy = _comfy()
    from comfy.ldm.flux.model import Flux

    double, single = {"whole": (2, 6), "pruned": (1, 4), "stump": (1, 2), "wide": (1, 3)}[shape]
    width = 256 if shape == "wide" else 128
    model = Flux(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        vec_in_dim=WIDTH,
        context_in_dim=WIDTH,
        hidden_size=width,
        mlp_ratio=4.0,
        num_heads=width // 128,
        depth=double,
        depth_single_blocks=single,
        axes_dim=[16, 56, 56],
        theta=10000,
        patch_size=2,
        qkv_bias=True,
        guidance_embed=False,
        txt_ids_dims=[],
        image_model="flux",
        operations=comfy.ops.disable_weight_init,
    )
    return initialise(model, zero=("mod.lin", "modulation.lin", "final_layer.linear", "adaLN_modulation.1"))


def _call_flux(model: nn.Module, weights: State, noised: Tensor, level: Tensor, context: Tensor) -> Tensor:
    return functional_call(model, dict(weights), (noised, level, context, pool(context)))


FLUX = Family(
    name="flux",
    build=_flux,
    call=_call_flux,
    add_noise=lambda clean, noise, level: torch.lerp(clean, noise, level[:, None, None, None]),
    aim=lambda clean, noise: noise - clean,
    denoise=lambda noised, answer, level: noised - level[:, None, None, None] * answer,
    noise=lambda denoised, answer: denoised + answer,
    sigma=lambda level: level,
    adds_in_place=True,
    # pruned: without one double block and two single blocks; stump: without one double block and four single blocks.
    pruned={
        "pruned": {
            "single_blocks.1.": "single_blocks.2.",
            "single_blocks.2.": "single_blocks.3.",
            "single_blocks.3.": "single_blocks.5.",
        },
        "stump": {"single_blocks.1.": "single_blocks.5."},
    },
)

FAMILIES = {family.name: family for family in (UNET, FLUX)}


def _comfy() -> Any:
    comfy = import_comfy()
    import_module("comfy.model_management")
    comfy.cli_args.args.use_pytorch_cross_attention = True
    comfy.model_management.in_training = True  # ComfyUI's fast kernels have no backward pass
    return comfy
