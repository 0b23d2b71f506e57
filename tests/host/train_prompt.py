"""Train LoRA-X in a graph: a folder of emoji drawings, ComfyUI's own nodes for training, and the demo's models."""

from typing import Any

from dev.paths import DEMO_PICTURES
from tests.host.prompts import node

SOURCE, TARGET = "emoji_source.safetensors", "emoji_target.safetensors"
SEEN = "winking face"


def train_prompt(prefix: str = "loras/trained", **settings: Any) -> dict[str, Any]:
    """A LoRA-X trained on a folder, saved, reported, and drawn with on its own base."""
    inputs = {"parameterisation": "inside", "steps": 40, "rank": 8, "batch": 8, "seed": 0, **settings}
    return {
        "source": _model(SOURCE),
        "vae": node("VAELoader", vae_name="emoji_vae.safetensors"),
        "clip": node("LoraTransferDemoEmojiClip"),
        "folder": node("LoadImageTextDataSetFromFolder", folder=DEMO_PICTURES.name),
        "dataset": node(
            "MakeTrainingDataset", images=["folder", 0], texts=["folder", 1], vae=["vae", 0], clip=["clip", 0]
        ),
        "empty": node("LoraTransferDemoEmojiPrompts", names=""),
        "train": node(
            "LoraTransferTrain",
            model=["source", 0],
            latents=["dataset", 0],
            positive=["dataset", 1],
            empty_prompt=["empty", 0],
            vae=["vae", 0],
            **inputs,
        ),
        "report": node("PreviewAny", source=["train", 2]),
        "pictures": node("PreviewImage", images=["train", 4]),
        "saved": node(
            "LoraTransferSave", transferred=["train", 0], filename_prefix=prefix, dtype="float32", spelling="comfy"
        ),
        "on_source": node(
            "LoraTransferApply", model=["source", 0], adapter=["train", 0], strength_model=1.0, strength_clip=1.0
        ),
        **draw("drawn_on_source", ["on_source", 0]),
        **draw("drawn_without", ["source", 0]),
    }


def transfer_of(adapter: list[Any], target: str = TARGET) -> dict[str, Any]:
    """The LoRA of an output, transferred to the target and drawn with there."""
    return {
        "source": _model(SOURCE),
        "target": _model(target),
        "vae": node("VAELoader", vae_name="emoji_vae.safetensors"),
        "source_base": node("LoraTransferLoadSourceBase", base_name=f"diffusion_models/{SOURCE}", model=["source", 0]),
        "target_base": node("LoraTransferLoadTargetBase", base_name=f"diffusion_models/{target}", model=["target", 0]),
        "similarity": node(
            "LoraTransferSimilarity",
            source=["source_base", 0],
            target=["target_base", 0],
            adapter=adapter,
            rank_rule="fraction",
            measure="weight_cosine",
            match_by="blocks",
            block_map="",
            **{"rank_rule.fraction": 0.5},
        ),
        "project": node(
            "LoraTransferProject",
            similarity=["similarity", 0],
            adapter=adapter,
            method="restore_both",
            threshold=0.0,
            below_threshold="skip",
        ),
        "project_report": node("PreviewAny", source=["project", 2]),
        "on_target": node(
            "LoraTransferApply", model=["target", 0], adapter=["project", 0], strength_model=1.0, strength_clip=1.0
        ),
        **draw("drawn_on_target", ["on_target", 0]),
        **draw("drawn_on_bare_target", ["target", 0]),
    }


def draw(name: str, model: list[Any]) -> dict[str, Any]:
    """A drawing of a caption by a model, shown by the node `name`."""
    return {
        "vae": node("VAELoader", vae_name="emoji_vae.safetensors"),
        "caption": node("LoraTransferDemoEmojiPrompts", names=SEEN),
        "nothing": node("LoraTransferDemoEmojiPrompts", names=""),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        f"{name}_sampler": node(
            "KSampler",
            model=model,
            positive=["caption", 0],
            negative=["nothing", 0],
            latent_image=["latent", 0],
            seed=7,
            steps=12,
            cfg=1.0,  # guidance would exaggerate what so short a training has missed
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        ),
        f"{name}_decoded": node("VAEDecode", samples=[f"{name}_sampler", 0], vae=["vae", 0]),
        name: node("SaveImage", images=[f"{name}_decoded", 0], filename_prefix=f"train/{name}"),
    }


def _model(name: str) -> dict[str, Any]:
    return node("UNETLoader", unet_name=name, weight_dtype="default")
