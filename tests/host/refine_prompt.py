"""Refine LoRA in a graph of the demo's models."""

from typing import Any

from tests.host.prompts import node
from tests.host.small_refine import FACES


def refine_prompt(prefix: str = "loras/refined", **settings: Any) -> dict[str, Any]:
    """The plain copy refined on the demo's target, saved and reported."""
    inputs = {
        "steps": 6,
        "batch": 8,
        "match": "outputs",
        "samples": 8,
        "rank": 4,
        "seed": 0,
        "size": 64,
        "target_steps": 0,
        "learning_rate": 0.05,
        "transferred": ["lora", 0],
        **settings,
    }
    return {
        "source": node("UNETLoader", unet_name="emoji_source.safetensors", weight_dtype="default"),
        "target": node("UNETLoader", unet_name="emoji_target.safetensors", weight_dtype="default"),
        "lora": node("LoraTransferLoadLora", lora_name="emoji_line_art.safetensors"),
        "prompts": node("LoraTransferDemoEmojiPrompts", names="\n".join(FACES)),
        "vae": node("VAELoader", vae_name="emoji_vae.safetensors"),
        "refine": node(
            "LoraTransferRefine",
            source_model=["source", 0],
            target_model=["target", 0],
            adapter=["lora", 0],
            conditioning=["prompts", 0],
            target_vae=["vae", 0],
            **{key: value for key, value in inputs.items() if value is not None},
        ),
        "report": node("PreviewAny", source=["refine", 2]),
        "pictures": node("PreviewImage", images=["refine", 4]),
        "saved": node(
            "LoraTransferSave", transferred=["refine", 0], filename_prefix=prefix, dtype="float32", spelling="comfy"
        ),
    }
