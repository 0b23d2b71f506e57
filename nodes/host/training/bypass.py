"""Adds factors to the layers of a loaded model without changing its weights: a layer's output plus up(down(x)).

ComfyUI's own bypass trains whole layers. Here a layer can also be rows of a fused layer, and several can share it.
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
from ....core.refine.parameterisation import Trainable, TrainableDelta
from ..base.names import UNET, slice_of

_CONVS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: nn.functional.conv1d,
    nn.Conv2d: nn.functional.conv2d,
    nn.Conv3d: nn.functional.conv3d,
}

ABSENT = "the target has no such layer"
# ComfyUI's kinds of attention that have gradients. Sage's kind gives none, and without any error.
_WITH_GRADIENTS = {f"attention_{kind}" for kind in ("basic", "pytorch", "split", "sub_quad", "xformers")}


def explain_untrainable(model: nn.Module, layer: Layer) -> str | None:
    """Why a layer's factors cannot be trained; None if they can."""
    if layer.text_encoder:
        return "it belongs to the text encoder"
    try:
        module = comfy.utils.get_attr(model, _module_path(layer.name))
    except AttributeError:
        return ABSENT
    if not isinstance(module, (nn.Linear, *_CONVS)):
        return f"it is neither a linear layer nor a convolution ({type(module).__name__})"
    if getattr(module, "groups", 1) != 1:
        return "it is a grouped convolution"
    return None


@contextmanager
def bypass_layers(model: nn.Module, trainable: Trainable) -> Iterator[None]:
    """A context in which the model has deltas (m, n) on its layers."""
    by_path: dict[str, list[_Bypass]] = {}
    for name, delta in trainable.items():
        _, rows = slice_of(name)
        by_path.setdefault(_module_path(name), []).append(_Bypass(delta, rows))
    by_module = {comfy.utils.get_attr(model, path): bypasses for path, bypasses in by_path.items()}
    forwards = {module: _add_bypasses(module, module.forward, bypasses) for module, bypasses in by_module.items()}
    with replace_forwards(forwards):
        yield


@contextmanager
def replace_forwards(forwards: Mapping[Any, Callable[..., Any]]) -> Iterator[None]:
    """A context in which modules have other forwards. A forward that another node pack has set is restored."""
    before = {module: module.__dict__.get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, forward in before.items():
            del module.forward  # the class's own forward takes over again
            if forward is not None:
                module.forward = forward


def _module_path(layer: str) -> str:
    """The path of a layer's module in a loaded model. The keys of a base will not do: they are those of its file."""
    return UNET + (slice_of(layer)[0] or layer)


@dataclass(frozen=True)
class _Bypass:
    """rows: the outputs of the layer that the delta changes, None for all."""

    delta: TrainableDelta
    rows: Rows | None

    def change(self, module: Any, x: Tensor, outputs: int) -> Tensor:
        """What the delta adds to the layer's output; zeros outside of its rows."""
        up, down = (factor.to(x.dtype) for factor in self.delta.factors())
        if self.rows is not None:
            up = nn.functional.pad(up, (0, 0, self.rows.start, outputs - self.rows.stop))
        convolve = next((function for kind, function in _CONVS.items() if issubclass(type(module), kind)), None)
        if convolve is None:
            return nn.functional.linear(nn.functional.linear(x, down), up)
        size = tuple(module.kernel_size)
        kernel = down.reshape(len(down), -1, *size)
        low = convolve(x, kernel, stride=module.stride, padding=module.padding, dilation=module.dilation)
        return convolve(low, up.reshape(*up.shape, *(1 for _ in size)))


def _add_bypasses(module: Any, forward: Callable[..., Tensor], bypasses: list[_Bypass]) -> Callable[..., Tensor]:
    def forward_with_bypasses(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        output = forward(x, *args, **kwargs)
        channels = 1 if issubclass(type(module), tuple(_CONVS)) else -1
        for bypass in bypasses:
            output = output + bypass.change(module, x, output.shape[channels]).to(output.dtype)
        return output

    return forward_with_bypasses


def attend_with_gradients(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """ComfyUI's choice of attention if it has gradients, else torch's own. In a model's options it replaces the choice
    of any other node pack."""
    chosen = function if function.__name__ in _WITH_GRADIENTS else attention_pytorch
    return chosen(*args, **kwargs)


def allow_gradients(model: nn.Module) -> None:
    """Make a model's tensors usable in a backward pass. Nodes run in torch's inference mode, and a backward pass cannot
    save tensors that were made in it. So each gets a new tensor on the same memory; ComfyUI's own training loads the
    model a second time instead."""
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            tensors: dict[str, Any] = table
            for name, tensor in tensors.items():
                if tensor is not None and type(tensor.data) is Tensor and tensor.is_inference():
                    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
                    alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
                    is_parameter = table is module._parameters
                    tensors[name] = nn.Parameter(alias, requires_grad=False) if is_parameter else alias
