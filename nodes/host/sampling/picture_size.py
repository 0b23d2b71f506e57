"""The size of the pictures that a model was made for. ComfyUI does not know it: it only has the latents' scale."""

from typing import Any

import comfy.supported_models

_USUAL = 1024  # pixels: SDXL and nearly every later model of pictures
_FEWEST_PARAMETERS, _SMALL = 100e6, 64  # the smallest published models have more; ours draw at 64 pixels
# ComfyUI's class of model -> the side of a square picture with about as many pixels as the model was trained on. A
# class that is not listed has the size of the class that ComfyUI derives it from.
SIZES = {
    "SD15": 512,
    "SD20": 768,
    "SD_X4Upscaler": 512,
    "Stable_Zero123": 256,
    "SV3D_u": 576,
    "SVD_img2vid": 768,  # 1024 x 576
    "GenmoMochi": 640,  # 848 x 480
    "HunyuanVideo": 640,
    "HunyuanImage21": 2048,
    "HunyuanImage21Refiner": 2048,
    "Kandinsky5": 640,  # 768 x 512
    "Kandinsky5Image": 1024,
    "LTXV": 640,
    "WAN21_T2V": 640,  # 832 x 480
    "WAN22_T2V": 960,  # 1280 x 704
}


def size_for_family(family: str, parameters: float) -> int:
    """Width and height in pixels for one of ComfyUI's classes of models, by its name; 1024 for an unknown one. Models
    with fewer parameters than any published one, such as the demo's, get 64."""
    if parameters < _FEWEST_PARAMETERS:
        return _SMALL
    known = getattr(comfy.supported_models, family, object)
    return next((SIZES[parent.__name__] for parent in known.__mro__ if parent.__name__ in SIZES), _USUAL)


def size_for_model(model: Any) -> int:
    """Width and height in pixels for a loaded MODEL."""
    parameters = sum(parameter.numel() for parameter in model.model.diffusion_model.parameters())
    return size_for_family(type(model.model.model_config).__name__, parameters)
