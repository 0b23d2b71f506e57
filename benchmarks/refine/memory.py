"""Calculates the memory and operations of a step of Refine on a card: python -m benchmarks.refine.memory

ComfyUI's own models in their published sizes run on the meta device, with rank-16 factors beside every linear layer of
their transformer blocks. Counted are the weights, the factors with their gradients and Adam's two moments, and what
autograd keeps for the backward pass (each storage once), with and without gradient checkpointing at ComfyUI's depths.
Not counted are gradients in use and the allocator's gaps; add a tenth for them. The environment must set
LORA_TRANSFER_COMFYUI, as run.py does.
"""

# torch's hooks and ComfyUI's models have no types.
# pyright: reportAttributeAccessIssue=false, reportPrivateImportUsage=false

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from dev.small_models import import_comfy

META = torch.device("meta")
BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn
RANK = 16
ADAM = 4 * 4  # bytes for each entry of a factor: value, gradient and two moments in float32
SIDE = 128  # latents of 1024 px
DEPTHS = (2, 3)  # where ComfyUI's training node can place checkpoints; 1 is the whole model and saves nothing
BLOCKS = ("transformer_blocks.", "double_blocks.", "single_blocks.")


def sdxl(dtype: torch.dtype) -> nn.Module:
    comfy = import_comfy()
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.supported_models import SDXL

    return UNetModel(
        **SDXL.unet_config,
        image_size=32,
        in_channels=4,
        out_channels=4,
        num_res_blocks=[2, 2, 2],
        channel_mult=[1, 2, 4],
        num_classes="sequential",
        use_spatial_transformer=True,
        transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10],
        transformer_depth_middle=10,
        num_head_channels=64,
        dtype=dtype,
        device=META,
        operations=comfy.ops.manual_cast,
    )


def flux(dtype: torch.dtype) -> nn.Module:
    comfy = import_comfy()
    from comfy.ldm.flux.model import Flux

    model = Flux(
        in_channels=16,
        out_channels=16,
        vec_in_dim=768,
        context_in_dim=4096,
        hidden_size=3072,
        mlp_ratio=4.0,
        num_heads=24,
        depth=19,
        depth_single_blocks=38,
        axes_dim=[16, 56, 56],
        theta=10000,
        patch_size=2,
        qkv_bias=True,
        guidance_embed=True,
        txt_ids_dims=[],
        dtype=dtype,
        device=META,
        operations=comfy.ops.manual_cast,
    )
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) or module in (*model.double_blocks, *model.single_blocks):
            module.register_forward_pre_hook(copy_arguments, with_kwargs=True)
    return model


def copy_arguments(
    _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Copies the arguments of a module before it runs.

    ComfyUI's Flux adds to its streams in place, so what norms and checkpoints keep of them must be copied, or torch
    refuses the backward pass. With copies for checkpoints only, the gradients of a small Flux were wrong by 19 %."""

    def copy(value: Any) -> Any:
        return value.clone() if isinstance(value, Tensor) and value.dtype == BF16 else value  # not float32 positions

    return tuple(copy(value) for value in arguments), {name: copy(value) for name, value in named.items()}


def empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=BF16, device=META)


def call_sdxl(model: nn.Module, batch: int) -> Tensor:
    return model(empty(batch, 4, SIDE, SIDE), empty(batch), empty(batch, 77, 2048), y=empty(batch, 2816))


def call_flux(model: nn.Module, batch: int) -> Tensor:
    latents, context, pooled = empty(batch, 16, SIDE, SIDE), empty(batch, 256, 4096), empty(batch, 768)
    return model(latents, empty(batch), context, pooled, guidance=empty(batch))


@dataclass(frozen=True)
class Subject:
    """A model to measure: how to build it, its dtype, and how to call it with a batch size."""

    name: str
    make: Callable[[torch.dtype], nn.Module]
    dtype: torch.dtype
    call: Callable[[nn.Module, int], Tensor]


SUBJECTS = (
    Subject("SDXL, 16 bits", sdxl, BF16, call_sdxl),
    Subject("Flux dev, 16 bits", flux, BF16, call_flux),
    Subject("Flux dev, fp8", flux, FP8, call_flux),
)


def add_bypass(layer: nn.Linear, up: Tensor, down: Tensor) -> None:
    """Adds the factors' output to the layer's own, as ComfyUI's training node does."""
    own = layer.forward
    layer.forward = lambda x: own(x) + (x @ down.to(x.dtype).mT) @ up.to(x.dtype).mT


def add_factors(model: nn.Module) -> list[nn.Parameter]:
    """Adds a bypass to the linear layers of a model's blocks and returns the factors."""
    model.requires_grad_(False)
    factors: list[nn.Parameter] = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and any(block in name for block in BLOCKS):
            rows, columns = layer.weight.shape
            pair = [nn.Parameter(torch.empty(shape, device=META)) for shape in ((rows, RANK), (RANK, columns))]
            add_bypass(layer, *pair)
            factors += pair
    return factors


class StorageCounter:
    """Counts the bytes of storages, each once, without those in `excluded`."""

    def __init__(self, excluded: set[int]) -> None:
        self.excluded, self.storages = excluded, dict[int, torch.UntypedStorage]()

    def add(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()  # kept alive: another storage could get a freed one's address
        if storage._cdata not in self.excluded:
            self.storages[storage._cdata] = storage
        return tensor

    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())


def storages_of(model: nn.Module, factors: list[nn.Parameter]) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in itertools.chain(model.parameters(), model.buffers(), factors)}


def checkpoint(blocks: list[nn.Module], outside: StorageCounter, inside: list[int]) -> None:
    """Makes every block a checkpoint for the counters.

    A checkpoint keeps only a block's arguments: `outside` counts them. The block keeps more while it is computed again:
    its bytes are appended to `inside`."""
    for block in blocks:

        def forward(*arguments: Any, own: Callable[..., Any] = block.forward, **named: Any) -> Any:
            for value in itertools.chain(arguments, named.values()):
                if isinstance(value, Tensor):
                    outside.add(value)
            counter = StorageCounter(outside.excluded | outside.storages.keys())
            with saved_tensors_hooks(counter.add, lambda packed: packed):
                output = own(*arguments, **named)
            inside.append(counter.bytes())
            return output

        block.forward = forward


def kept_bytes(subject: Subject, batch: int, depth: int | None) -> int:
    """Bytes that the backward pass needs at its peak. depth: of the checkpoints; None: without."""
    model = subject.make(subject.dtype)
    factors = add_factors(model)
    kept, inside = StorageCounter(storages_of(model, factors)), [0]
    if depth is not None:
        from comfy_extras.nodes_train import find_modules_at_depth

        checkpoint(find_modules_at_depth(model, depth), kept, inside)
    with saved_tensors_hooks(kept.add, lambda packed: packed):
        subject.call(model, batch)
    return kept.bytes() + max(inside)


def operations(subject: Subject) -> tuple[int, int]:
    """Floating-point operations at batch 1: forward, and forward plus backward. A multiply-add counts as two."""
    model = subject.make(subject.dtype)
    add_factors(model)
    with FlopCounterMode(display=False) as counter:
        answers = subject.call(model, 1)
        forward = counter.get_total_flops()
        answers.float().sum().backward()
    return forward, counter.get_total_flops()


def imitate_card() -> None:
    """Makes ComfyUI use a card's attention and operations with a backward pass. Call it before ComfyUI is imported."""
    sys.path.insert(0, os.environ["LORA_TRANSFER_COMFYUI"])
    import comfy.cli_args

    comfy.cli_args.args.use_pytorch_cross_attention = True
    comfy = import_comfy()
    comfy.model_management.in_training = True
    comfy.ops.scaled_dot_product_attention = _flash


def _flash(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
    """Calls flash attention: for meta tensors torch would use the plain formula and keep whole attention matrices."""
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]


def rows(subject: Subject) -> Iterator[tuple[str, ...]]:
    model = subject.make(subject.dtype)
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    adam = ADAM * sum(factor.numel() for factor in add_factors(model))
    for batch, depth in itertools.product((1, 2), (None, *DEPTHS)):
        kept = kept_bytes(subject, batch, depth)
        sizes = (f"{size / 1e9:.1f}" for size in (weights, adam, kept, weights + adam + kept))
        yield subject.name, str(batch), "none" if depth is None else f"depth {depth}", *sizes


def table(heads: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ("---",) * len(heads), *lines)) + "\n"


def main() -> None:
    torch.set_num_threads(1)
    imitate_card()
    print(f"GB at 1024 px, rank {RANK}, computed in bfloat16\n")
    heads = ("model", "rows at once", "checkpoints", "weights", "factors and Adam", "kept for backward", "together")
    print(table(heads, [row for subject in SUBJECTS for row in rows(subject)]))
    print("TFLOP of one row; with checkpoints the forward pass runs twice\n")
    counts = {subject.name: operations(subject) for subject in SUBJECTS[:2]}
    heads = ("model", "forward", "forward and backward", "with checkpoints")
    lines = [(name, forward, both, forward + both) for name, (forward, both) in counts.items()]
    print(table(heads, [(name, *(f"{count / 1e12:.1f}" for count in figures)) for name, *figures in lines]))


if __name__ == "__main__":
    main()
