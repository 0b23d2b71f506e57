"""Size 0 is the size that a model was made for."""

import math
from typing import Any

import comfy.sd
import comfy.supported_models
import pytest
import torch

from lora_transfer.nodes.host.sampling.outputs import latents_of
from lora_transfer.nodes.host.sampling.picture_size import SIZES, size_for_family
from tests.host.conftest import SmallPair


@pytest.fixture(scope="module")
def model(pair: SmallPair) -> Any:
    """A loaded SD1.5 checkpoint."""
    return comfy.sd.load_checkpoint_guess_config(str(pair.source), output_vae=False, output_clip=False)[0]


def test_every_family_in_the_table_is_one_of_comfyui() -> None:
    assert {name for name in SIZES if not hasattr(comfy.supported_models, name)} == set()


@pytest.mark.parametrize("family", comfy.supported_models.models, ids=lambda family: family.__name__)
def test_a_family_has_a_size_that_its_latents_can_have(family: Any) -> None:
    size, ratio = size_for_family(family.__name__, 1e9), family.latent_format.spacial_downscale_ratio
    assert 256 <= size <= 2048
    assert (size // ratio) % 2 == 0  # transformers cut latents into patches of 2 x 2
    assert math.isclose(size // ratio * ratio, size, rel_tol=0.02)


@pytest.mark.parametrize(
    ("family", "size"),
    [
        ("SD15", 512),
        ("SD15_instructpix2pix", 512),
        ("SD21UnclipH", 768),
        ("SDXL", 1024),
        ("SSD1B", 1024),
        ("SD3", 1024),
        ("Flux", 1024),
        ("ZImage", 1024),
        ("WAN21_I2V", 640),
        ("HunyuanImage21", 2048),
        ("a class that does not exist", 1024),
    ],
)
def test_a_family_has_the_size_that_it_was_trained_on(family: str, size: int) -> None:
    assert size_for_family(family, 1e9) == size
    assert size_for_family(family, 7e6) == 64  # as the demo's models, which draw at 64 pixels


def test_size_0_gives_latents_of_the_models_own_size_and_any_other_size_its_own(model: Any) -> None:
    assert latents_of(model, None, 0).shape == (1, 4, 8, 8)  # the model is small: 64 pixels
    assert latents_of(model, None, 128).shape == (1, 4, 16, 16)


def test_a_latent_that_is_connected_sets_the_size(model: Any) -> None:
    connected = {"samples": torch.zeros(2, 4, 8, 12)}
    assert latents_of(model, connected, 0).shape == (2, 4, 8, 12)
