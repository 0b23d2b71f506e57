"""The positions of tensors in the `weights` tuple of ComfyUI's adapters, by the adapter's class. ComfyUI has no names
for them."""

from typing import Any

from comfy.weight_adapter import (
    BOFTAdapter,
    GLoRAAdapter,
    LoHaAdapter,
    LoKrAdapter,
    LoRAAdapter,
    OFTAdapter,
)

ALPHA = 2  # LoRA, LoHa and LoKr
DOWN = 1  # LoRA, and LoHa's first w_b: its first dimension is the rank
MID, RESHAPE = 3, 5  # LoRA: the Tucker core, and the shape to which it pads its layer
W1_A, W1_B, W2_A, W2_B = 3, 4, 5, 6  # LoKr: the factors of its two matrices, None where a matrix is whole

# Where OFT and BOFT have the limit of a norm, which their trainers write as alpha.
NORM_LIMIT: dict[type, int] = {OFTAdapter: 2, BOFTAdapter: 2}

# Where the Tucker cores are.
CORES: dict[type, tuple[int, ...]] = {LoRAAdapter: (MID,), LoHaAdapter: (5, 6), LoKrAdapter: (7,)}

# Where a DoRA scale is.
DORA_SCALE: dict[type, int] = {
    LoRAAdapter: 4,
    LoHaAdapter: 7,
    LoKrAdapter: 8,
    GLoRAAdapter: 5,
    OFTAdapter: 3,
    BOFTAdapter: 3,
}


def dora_scale_of(patch: Any) -> Any:
    """The DoRA scale of one of ComfyUI's adapters, or None."""
    return patch.weights[DORA_SCALE[type(patch)]]
