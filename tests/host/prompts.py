"""Prompts for POST /prompt, as small as their tests need them."""

from typing import Any

from dev.client import RunResult


def transfer_prompt(
    *,
    source: str = "checkpoints/small_source.safetensors",
    target: str = "checkpoints/small_target.safetensors",
    lora: str = "small_lora.safetensors",
    dtype: str = "float32",
    prefix: str = "loras/test",
    spelling: str = "comfy",
    rank_rule: tuple[str, str, float] = ("fraction", "fraction", 0.5),
    measure: str = "subspace",
    match_by: str = "blocks",
    block_map: str = "",
    **settings: Any,
) -> dict[str, Any]:
    """From two bases and a LoRA to a saved file; the nodes are named source, target, lora, similarity, project, save,
    report and similarity_report. `settings` override those of Project LoRA."""
    rule, amount_name, amount = rank_rule
    project = {
        "method": "restore_both",
        "threshold": 0.0,
        "below_threshold": "skip",
        "rescale": "off",
        "out_rank": "exact",
        "dense_rank": 64,
        "dense_energy": 1.0,
        **settings,
    }
    return {
        "source": node("LoraTransferLoadSourceBase", base_name=source),
        "target": node("LoraTransferLoadTargetBase", base_name=target),
        "lora": node("LoraTransferLoadLora", lora_name=lora),
        "similarity": node(
            "LoraTransferSimilarity",
            source=["source", 0],
            target=["target", 0],
            adapter=["lora", 0],
            rank_rule=rule,
            measure=measure,
            match_by=match_by,
            block_map=block_map,
            **{f"rank_rule.{amount_name}": amount},
        ),
        "project": node("LoraTransferProject", similarity=["similarity", 0], adapter=["lora", 0], **project),
        "save": node(
            "LoraTransferSave", transferred=["project", 0], filename_prefix=prefix, dtype=dtype, spelling=spelling
        ),
        "report": node("PreviewAny", source=["project", 2]),
        "similarity_report": node("PreviewAny", source=["similarity", 1]),
    }


def image_prompt(name: str, model: list[Any], extra: dict[str, Any]) -> dict[str, Any]:
    """One 64 px image by the model output `model` of a node in `extra`, saved by the node `name`."""
    return {
        **extra,
        "checkpoint": node("CheckpointLoaderSimple", ckpt_name="small_target.safetensors"),
        "text": node("CLIPTextEncode", text="a house", clip=["checkpoint", 1]),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        f"{name}_sampler": node(
            "KSampler",
            model=model,
            positive=["text", 0],
            negative=["text", 0],
            latent_image=["latent", 0],
            seed=3,
            steps=2,
            cfg=1.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        f"{name}_decoded": node("VAEDecode", samples=[f"{name}_sampler", 0], vae=["checkpoint", 2]),
        name: node("SaveImage", images=[f"{name}_decoded", 0], filename_prefix=f"test/{name}"),
    }


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def said(result: RunResult, name: str) -> list[str]:
    """The sentences that a node shows after a run."""
    return [line["text"] for content in result.outputs[name]["lora_transfer"] for line in content["lines"]]
