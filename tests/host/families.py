"""Full-size architectures as headers: shapes from ComfyUI's own classes on meta tensors, no weight anywhere.

Each entry is the model as its makers published it; the class and the names of the settings are ComfyUI's.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import comfy.ops
import comfy.sd1_clip
import torch

from lora_transfer.core.files import TensorFile, TensorHeader
from tests.host.more_families import MORE_TRANSFORMERS

_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
}
_SDXL = {
    **_UNET,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_head_channels": 64,
}
_SD1 = {
    **_UNET,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
}
_FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "depth": 19,
    "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
_WAN = {
    "patch_size": (1, 2, 2),
    "in_dim": 16,
    "out_dim": 16,
    "freq_dim": 256,
    "text_dim": 4096,
    "model_type": "t2v",
}

UNETS: dict[str, dict[str, Any]] = {
    "SD15": {**_SD1, "use_linear_in_transformer": False, "context_dim": 768, "num_heads": 8},
    "SD21": {**_SD1, "use_linear_in_transformer": True, "context_dim": 1024, "num_head_channels": 64},
    "SDXL": {
        **_SDXL,
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
    },
    "SSD-1B": {
        **_SDXL,
        "transformer_depth": [0, 0, 2, 2, 4, 4],
        "transformer_depth_output": [0, 0, 0, 1, 1, 2, 10, 4, 4],
        "transformer_depth_middle": -1,
    },
    "Vega": {
        **_SDXL,
        "transformer_depth": [0, 0, 1, 1, 2, 2],
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
        "transformer_depth_middle": -1,
    },
    "SDXL Refiner": {
        **_SDXL,
        "model_channels": 384,
        "adm_in_channels": 2560,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0],
        "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
        "transformer_depth_middle": 4,
        "context_dim": 1280,
    },
    "KOALA-700M": {
        **_SDXL,
        "num_res_blocks": [1, 1, 1],
        "transformer_depth": [0, 2, 5],
        "transformer_depth_output": [0, 0, 2, 2, 5, 5],
        "transformer_depth_middle": -2,
    },
}

# family: (module, class, settings)
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Flux dev": ("comfy.ldm.flux.model", "Flux", _FLUX),
    "Flux schnell": ("comfy.ldm.flux.model", "Flux", {**_FLUX, "guidance_embed": False}),
    "SD3 medium": (
        "comfy.ldm.modules.diffusionmodules.mmdit",
        "OpenAISignatureMMDITWrapper",
        {
            "input_size": None,
            "pos_embed_scaling_factor": None,
            "pos_embed_offset": None,
            "pos_embed_max_size": 192,
            "patch_size": 2,
            "in_channels": 16,
            "depth": 24,
            "num_patches": 36864,
            "adm_in_channels": 2048,
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 4096, "out_features": 1536},
            },
        },
    ),
    "Wan 2.1 1.3B": (
        "comfy.ldm.wan.model",
        "WanModel",
        {**_WAN, "dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30},
    ),
    "Wan 2.2 14B": (
        "comfy.ldm.wan.model",
        "WanModel",
        {**_WAN, "dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40},
    ),
    "Z-Image": (
        "comfy.ldm.lumina.model",
        "NextDiT",
        {
            "patch_size": 2,
            "in_channels": 16,
            "dim": 3840,
            "cap_feat_dim": 2560,
            "n_layers": 30,
            "n_heads": 30,
            "n_kv_heads": 30,
            "axes_dims": [32, 48, 48],
            "axes_lens": [1536, 512, 512],
            "rope_theta": 256.0,
            "ffn_dim_multiplier": 8.0 / 3.0,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "qk_norm": True,
        },
    ),
    "Lumina 2": (
        "comfy.ldm.lumina.model",
        "NextDiT",
        {
            "patch_size": 2,
            "in_channels": 16,
            "dim": 2304,
            "cap_feat_dim": 2304,
            "n_layers": 26,
            "n_heads": 24,
            "n_kv_heads": 8,
            "axes_dims": [32, 32, 32],
            "axes_lens": [300, 512, 512],
            "qk_norm": True,
        },
    ),
    "Qwen-Image": (
        "comfy.ldm.qwen_image.model",
        "QwenImageTransformer2DModel",
        {"num_layers": 60, "in_channels": 64, "out_channels": 16},
    ),
    "PixArt Sigma": (
        "comfy.ldm.pixart.pixartms",
        "PixArtMS",
        {
            "depth": 28,
            "hidden_size": 1152,
            "patch_size": 2,
            "num_heads": 16,
            "in_channels": 4,
            "caption_channels": 4096,
        },
    ),
    "LTXV": ("comfy.ldm.lightricks.model", "LTXVModel", {"in_channels": 128, "cross_attention_dim": 2048}),
    "HunyuanVideo": (
        "comfy.ldm.hunyuan_video.model",
        "HunyuanVideo",
        {
            "in_channels": 16,
            "out_channels": 16,
            "vec_in_dim": 768,
            "context_in_dim": 4096,
            "hidden_size": 3072,
            "mlp_ratio": 4.0,
            "num_heads": 24,
            "depth": 20,
            "depth_single_blocks": 40,
            "axes_dim": [16, 56, 56],
            "theta": 256,
            "patch_size": [1, 2, 2],
            "qkv_bias": True,
            "guidance_embed": True,
            "byt5": False,
            "meanflow": False,
            "use_cond_type_embedding": False,
            "vision_in_dim": None,
            "meanflow_sum": False,
        },
    ),
    "Chroma": (
        "comfy.ldm.chroma.model",
        "Chroma",
        {
            "in_channels": 64,
            "out_channels": 64,
            "context_in_dim": 4096,
            "hidden_size": 3072,
            "mlp_ratio": 4.0,
            "num_heads": 24,
            "depth": 19,
            "depth_single_blocks": 38,
            "axes_dim": [16, 56, 56],
            "theta": 10000,
            "patch_size": 2,
            "qkv_bias": True,
            "in_dim": 64,
            "out_dim": 3072,
            "hidden_dim": 5120,
            "n_layers": 5,
            "txt_ids_dims": [],
            "vec_in_dim": None,
        },
    ),
    "Anima": (
        "comfy.ldm.anima.model",
        "Anima",
        {
            "max_img_h": 240,
            "max_img_w": 240,
            "max_frames": 128,
            "in_channels": 16,
            "out_channels": 16,
            "patch_spatial": 2,
            "patch_temporal": 1,
            "model_channels": 2048,
            "num_blocks": 28,
            "num_heads": 16,
            "crossattn_emb_channels": 1024,
            "pos_emb_cls": "rope3d",
            "pos_emb_learnable": True,
            "use_adaln_lora": True,
            "adaln_lora_dim": 256,
        },
    ),
    "AuraFlow": ("comfy.ldm.aura.mmdit", "MMDiT", {}),
    "Flux.2 dev": (
        "comfy.ldm.flux.model",
        "Flux",
        {
            **_FLUX,
            "in_channels": 128,
            "out_channels": 128,
            "vec_in_dim": None,
            "context_in_dim": 15360,
            "hidden_size": 6144,
            "mlp_ratio": 3.0,
            "num_heads": 48,
            "depth": 8,
            "depth_single_blocks": 48,
            "axes_dim": [32, 32, 32, 32],
            "theta": 2000,
            "patch_size": 1,
            "qkv_bias": False,
            "txt_ids_dims": [3],
            "global_modulation": True,
            "mlp_silu_act": True,
            "ops_bias": False,
        },
    ),
    **MORE_TRANSFORMERS,
}

FAMILIES = (*UNETS, *TRANSFORMERS)


def header_of(family: str, text_encoder: bool = False) -> TensorFile:
    """The header of a full-size file: the diffusion model under a checkpoint's prefix, and CLIP-L if asked for."""
    model = model_of(family, UNETS[family] if family in UNETS else TRANSFORMERS[family][2])
    tensors = {f"model.diffusion_model.{key}": header_of_tensor(value) for key, value in model.state_dict().items()}
    if text_encoder:
        clip = comfy.sd1_clip.SDClipModel(dtype=torch.float16, device="meta").state_dict()
        tensors |= {
            f"cond_stage_model.{key}": header_of_tensor(value) for key, value in clip.items() if "transformer" in key
        }
    return TensorFile(Path(family), tensors, {})


def clip_g_in_sdxl() -> dict[str, TensorHeader]:
    """SDXL's second text encoder as its checkpoints hold it: OpenCLIP's names, q, k and v fused."""
    block = {
        "ln_1.weight": (1280,),
        "ln_1.bias": (1280,),
        "ln_2.weight": (1280,),
        "ln_2.bias": (1280,),
        "attn.in_proj_weight": (3840, 1280),
        "attn.in_proj_bias": (3840,),
        "attn.out_proj.weight": (1280, 1280),
        "attn.out_proj.bias": (1280,),
        "mlp.c_fc.weight": (5120, 1280),
        "mlp.c_fc.bias": (5120,),
        "mlp.c_proj.weight": (1280, 5120),
        "mlp.c_proj.bias": (1280,),
    }
    rest = {
        "token_embedding.weight": (49408, 1280),
        "positional_embedding": (77, 1280),
        "text_projection": (1280, 1280),
        "ln_final.weight": (1280,),
        "ln_final.bias": (1280,),
    }
    blocks = {f"transformer.resblocks.{i}.{name}": shape for i in range(32) for name, shape in block.items()}
    return {
        f"conditioner.embedders.1.model.{key}": TensorHeader(shape, "F16") for key, shape in {**blocks, **rest}.items()
    }


def model_of(family: str, settings: dict[str, Any]) -> torch.nn.Module:
    """ComfyUI's class of a family with these settings, on meta tensors."""
    module, name = (
        ("comfy.ldm.modules.diffusionmodules.openaimodel", "UNetModel") if family in UNETS else TRANSFORMERS[family][:2]
    )
    make = getattr(import_module(module), name)
    return make(**settings, device="meta", dtype=torch.float16, operations=comfy.ops.disable_weight_init)


def header_of_tensor(tensor: torch.Tensor) -> TensorHeader:
    return TensorHeader(tuple(tensor.shape), "F16")
