"""Factors on the layers of a loaded model, beside its weights: what a layer gives plus up(down(x)).

ComfyUI's own bypass trains whole layers; here layers can be rows of a fused one, and several can share it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.utils
import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor, nn

from ....core.layers import Layer, Rows
from ..base.names import UNET, slice_of

_CONVS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: nn.functional.conv1d,
    nn.Conv2d: nn.functional.conv2d,
    nn.Conv3d: nn.functional.conv3d,
}

ABSENT = "the target has no such layer"
# ComfyUI's kinds of attention that torch has gradients of. Through Sage's none come back, and nothing says so.
_WITH_GRADIENTS = {f"attention_{kind}" for kind in ("basic", "pytorch", "split", "sub_quad", "xformers")}

Factors = Mapping[str, tuple[Tensor, Tensor]]


def explain_untrainable(model: nn.Module, layer: Layer) -> str | None:
    """The reason why a layer's factors cannot be trained, or None."""
    if layer.text_encoder:
        return "it belongs to the text encoder"
    try:
        module = comfy.utils.get_attr(model, _place(layer.name))
    except AttributeError:
        return ABSENT
    if not isinstance(module, (nn.Linear, *_CONVS)):
        return f"it is no linear layer and no convolution ({type(module).__name__})"
    if getattr(module, "groups", 1) != 1:
        return "it is a convolution by groups"
    return None


@contextmanager
def bypass_layers(model: nn.Module, factors: Factors) -> Iterator[None]:
    """The model with factors (up (m, r), down (r, n)) on its layers, until the end of the block."""
    by_module: dict[str, list[_Side]] = {}
    for name, (up, down) in factors.items():
        _, rows = slice_of(name)
        by_module.setdefault(_place(name), []).append(_Side(up, down, rows))
    modules = [comfy.utils.get_attr(model, place) for place in by_module]
    sides = zip(modules, by_module.values(), strict=True)
    with replace_forwards({module: _add_sides(module, module.forward, some) for module, some in sides}):
        yield


@contextmanager
def replace_forwards(forwards: Mapping[Any, Callable[..., Any]]) -> Iterator[None]:
    """Modules with other forwards for the time; a forward that another node pack has put there comes back."""
    before = {module: module.__dict__.get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, forward in before.items():
            del module.forward  # the class's own is found again
            if forward is not None:
                module.forward = forward


def _place(layer: str) -> str:
    """Where a layer's module is in a loaded model; a base's own keys are those of its file."""
    return UNET + (slice_of(layer)[0] or layer)


@dataclass(frozen=True)
class _Side:
    """rows: the part of the layer's outputs that the factors change, None for all."""

    up: Tensor
    down: Tensor
    rows: Rows | None

    def change(self, module: Any, x: Tensor, outputs: int) -> Tensor:
        """What the factors add to the layer's output, zeros on the rows that they are not of."""
        up, down = self.up.to(x.dtype), self.down.to(x.dtype)
        if self.rows is not None:
            up = nn.functional.pad(up, (0, 0, self.rows.start, outputs - self.rows.stop))
        convolve = next((function for kind, function in _CONVS.items() if issubclass(type(module), kind)), None)
        if convolve is None:
            return nn.functional.linear(nn.functional.linear(x, down), up)
        size = tuple(module.kernel_size)
        kernel = down.reshape(len(down), -1, *size)
        low = convolve(x, kernel, stride=module.stride, padding=module.padding, dilation=module.dilation)
        return convolve(low, up.reshape(*up.shape, *(1 for _ in size)))


def _add_sides(module: Any, forward: Callable[..., Tensor], sides: list[_Side]) -> Callable[..., Tensor]:
    def add_sides(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        given = forward(x, *args, **kwargs)
        channels = 1 if issubclass(type(module), tuple(_CONVS)) else -1
        for side in sides:
            given = given + side.change(module, x, given.shape[channels]).to(given.dtype)
        return given

    return add_sides


def attend_with_gradients(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """Attention of ComfyUI's choice where gradients go through it, else torch's own. In a model's options it takes the
    place of what another node pack has put there."""
    chosen = function if function.__name__ in _WITH_GRADIENTS else attention_pytorch
    return chosen(*args, **kwargs)


def allow_gradients(model: nn.Module) -> None:
    """Nodes run in torch's inference mode, and tensors made there cannot be saved for a backward pass. The model's are
    given new heads on the same memory; ComfyUI's own training loads the model a second time instead."""
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            both: dict[str, Any] = held
            for name, tensor in both.items():
                if tensor is not None and type(tensor.data) is Tensor and tensor.is_inference():
                    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
                    alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
                    is_parameter = held is module._parameters
                    both[name] = nn.Parameter(alias, requires_grad=False) if is_parameter else alias
