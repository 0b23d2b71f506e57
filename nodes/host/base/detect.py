"""Detects which model a file holds: ComfyUI's own detection, run on tensors without memory."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.memory_management
import comfy.model_detection
import comfy.utils
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ....core.errors import UnsupportedBase
from ....core.files import TORCH_DTYPES, TensorFile, TensorHeader
from .names import UNET

_LARGEST_VECTOR = 1 << 20  # values

# ComfyUI's kind of model -> the setting for its number of blocks, and their names in a file. ComfyUI 0.30 derives this
# number from the width of the model, and so misses the blocks of grown models.
_DEPTHS = {"anima": ("num_blocks", "blocks.{}."), "cosmos_predict2": ("num_blocks", "blocks.{}.")}

Tensors = dict[str, Tensor]
Convert = Callable[[Tensors], Tensors]


@dataclass(frozen=True)
class DetectedModel:
    """config: ComfyUI's configuration of the model; model: the model itself, on meta tensors. tensors: those of the
    diffusion model, by ComfyUI's keys; convert: makes them of a file in diffusers' layout, None for other files."""

    config: Any
    model: Any
    tensors: Tensors
    convert: Convert | None

    @property
    def family(self) -> str:
        return type(self.config).__name__

    def note_missing_matrices(self) -> tuple[str, ...]:
        """A note if the file lacks matrices of the model, as a file with only a part of a model does."""
        in_file = {UNET + key for key in self.config.process_unet_state_dict(dict(self.tensors))}
        matrices = [key for key, value in self.model.state_dict().items() if value.ndim > 1]
        missing = [key for key in matrices if key not in in_file]
        if not missing:
            return ()
        return (
            f"the file lacks {len(missing)} of the model's {len(matrices)} matrices (first: {missing[0]}): it may be a "
            "part",
        )


def make_stand_ins(file: TensorFile) -> Tensors:
    """A tensor without memory for each tensor of a file. Short vectors get zeros: a few families read a vector to tell
    how the model predicts, which does not change the names of layers."""
    return {key: _make_stand_in(header) for key, header in file.tensors.items()}


def _make_stand_in(header: TensorHeader) -> Tensor:
    dtype = TORCH_DTYPES.get(header.dtype, torch.uint8)
    is_small = len(header.shape) <= 1 and math.prod(header.shape) <= _LARGEST_VECTOR
    return torch.empty(header.shape, dtype=dtype, device="cpu" if is_small else "meta").fill_(0)


def detect_model(stand_ins: Tensors, file: TensorFile, name: str) -> DetectedModel:
    """The model of a file. The order of attempts is that of comfy.sd.load_diffusion_model_state_dict.

    UnsupportedBase if ComfyUI does not know the model, or cannot build it from the file's shapes.
    """
    with _explain_errors(name):
        own = select_diffusion_model(stand_ins)
        config, convert = comfy.model_detection.model_config_from_unet(own, "", metadata=dict(file.metadata)), None
        if config is None:
            config, convert = _detect_diffusers(own)
            if config is None or convert is None:
                raise UnsupportedBase(
                    f"Base {name}: expected a diffusion model that ComfyUI knows, found {len(file.tensors)} tensors "
                    f"that belong to none (first: {next(iter(file.tensors), 'nothing')}). Choose a checkpoint or a "
                    "diffusion model."
                )
        tensors = own if convert is None else convert(own)
    _use_depth_of_file(config, tensors)
    return DetectedModel(config, _build(config, tensors, name), tensors, convert)


def _use_depth_of_file(config: Any, tensors: Tensors) -> None:
    """Set the number of blocks in ComfyUI's configuration to that of the file, where ComfyUI does not count them."""
    setting, name = _DEPTHS.get(config.unet_config.get("image_model"), ("", ""))
    if setting and (depth := comfy.model_detection.count_blocks(list(tensors), name)):
        config.unet_config[setting] = depth


@contextmanager
def _explain_errors(name: str) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise UnsupportedBase(
            f"Base {name}: expected the layers by which ComfyUI recognises a model, found none called "
            f"{error.args[0]}. A part of the model is missing, or ComfyUI does not read this layout: choose a file in "
            "a layout that it reads."
        ) from error
    except RuntimeError as error:
        raise UnsupportedBase(
            f"Base {name}: expected tensors from which ComfyUI can make the model's own, found shapes that do not "
            f"fit ({error}). Load the file with ComfyUI's own loader and connect that MODEL."
        ) from error


def _detect_diffusers(own: Tensors) -> tuple[Any | None, Convert | None]:
    """ComfyUI's configuration for a file in diffusers' layout, and the conversion that ComfyUI applies on loading."""

    def convert_transformer(tensors: Tensors) -> Any:
        return comfy.model_detection.convert_diffusers_mmdit(dict(tensors), "")

    def convert_unet(tensors: Tensors) -> Tensors:
        return {key: tensors[spelled] for spelled, key in names.items() if spelled in tensors}

    if (converted := convert_transformer(own)) is not None:
        return comfy.model_detection.model_config_from_unet(converted, ""), convert_transformer
    config = comfy.model_detection.model_config_from_diffusers_unet(own)
    names = {} if config is None else comfy.utils.unet_to_diffusers(config.unet_config)
    return config, convert_unet


def select_diffusion_model(tensors: Tensors) -> Tensors:
    """The tensors of the diffusion model alone, without the prefix that a checkpoint gives them."""
    prefix = comfy.model_detection.unet_prefix_from_state_dict(tensors)
    return comfy.utils.state_dict_prefix_replace(dict(tensors), {prefix: ""}, filter_keys=True) or dict(tensors)


def _build(config: Any, tensors: Mapping[str, Tensor], name: str) -> Any:
    """ComfyUI's model on meta tensors. The keys of its state dict are the names of the layers."""
    try:
        with build_all_weights():
            try:
                return config.get_model(dict(tensors), "", device=torch.device("meta"))
            except RuntimeError:
                with KeepClassValues():
                    return config.get_model(dict(tensors), "", device=torch.device("meta"))
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedBase(
            f"Base {name}: expected a {type(config).__name__}, as ComfyUI detects it, found shapes from which ComfyUI "
            f"cannot build that model ({type(error).__name__}: {error}). Load the file with ComfyUI's own loader and "
            "connect that MODEL."
        ) from error


@contextmanager
def build_all_weights() -> Iterator[None]:
    """Builds a model with all its weights. With dynamic loading, which is ComfyUI's default on NVIDIA's cards, linear
    layers are built without a weight: their names would be missing."""
    dynamic = comfy.memory_management.aimdo_enabled
    comfy.memory_management.aimdo_enabled = False
    try:
        yield
    finally:
        comfy.memory_management.aimdo_enabled = dynamic


class KeepClassValues(TorchFunctionMode):
    """Keeps values that a model's class writes down itself (ACE-Step 1.5 counts its codebook) off the meta device,
    where they would be lost. Not for every class: some mix such values with meta tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.arange, torch.tensor):
            kwargs.pop("device", None)
        return func(*args, **kwargs)
