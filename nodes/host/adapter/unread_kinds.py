"""Recognises kinds of adapters that are not read, by keys that only they have. Otherwise they would be read as a
simpler kind that has some of the same keys."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from ....core.errors import UnsupportedAdapter
from .spelling.endings import KEYS_KEPT

# A part of a key between dots -> the kind. AdaLoRA, for instance, has LoRA's lora_A and lora_B, and its own lora_E.
MARKS: dict[str, str] = {
    **dict.fromkeys(("lora_E", "ranknum"), "AdaLoRA"),
    **dict.fromkeys(("vera_lambda_b", "vera_lambda_d", "vera_A", "vera_B"), "VeRA"),
    **dict.fromkeys(("pvera_lambda_b", "pvera_lambda_d", "pvera_A", "pvera_B"), "PVeRA"),
    **dict.fromkeys(("oft_R", "oft_r", "oft_s", "oft_embedding_R"), "OFT of PEFT"),
    **dict.fromkeys(("boft_R", "boft_s"), "BOFT of PEFT"),
    **dict.fromkeys(("glora_A", "glora_B", "glora_C", "glora_D", "glora_E"), "GLoRA of PEFT"),
    **dict.fromkeys(("ia3_l", "on_input"), "IA3"),
    **dict.fromkeys(("vblora_logits_A", "vblora_logits_B", "vblora_vector_bank"), "VB-LoRA"),
    **dict.fromkeys(("randlora_lambda", "randlora_gamma", "randlora_A", "randlora_B"), "RandLoRA"),
    **dict.fromkeys(("gralora_A", "gralora_B", "gralora_A_general", "gralora_B_general"), "GraLoRA"),
    **dict.fromkeys(("hira_A", "hira_B", "hira_embedding_A", "hira_embedding_B"), "HiRA"),
    **dict.fromkeys(("delora_A", "delora_B", "delora_lambda"), "DeLoRA"),
    **dict.fromkeys(("lora_embedding_A", "lora_embedding_B"), "LoRA of an embedding"),
    **dict.fromkeys(("poly_lora_A", "poly_lora_B", "poly_router"), "Poly"),
    **dict.fromkeys(("lily_A", "lily_B", "lily_router"), "Lily"),
    **dict.fromkeys(("road_theta", "road_alpha"), "RoAd"),
    **dict.fromkeys(("deft_P", "deft_R"), "DEFT"),
    "fourierft_spectrum": "FourierFT",
    "waveft_spectrum": "WaveFT",
    "c3a_kernel": "C3A",
    "hra_u": "HRA",
    "miss_block": "MiSS",
    "bone_block": "Bone",
    "shira_weight": "SHiRA",
    "psoft_R": "PSOFT",
    **dict.fromkeys(("tinylora_v", "tinylora_A", "tinylora_B", "tinylora_P"), "TinyLoRA"),
    **dict.fromkeys(("frod_lambda_l", "frod_lambda_s_values"), "FRoD"),
    **dict.fromkeys(("peanut_A", "peanut_B"), "PEANuT"),
    **dict.fromkeys(("supertuning_indices", "supertuning_values"), "SuperTuning"),
    "unilora_theta_d": "Uni-LoRA",
    "osf_svd_params": "OSF",
    "ln_tuning_layers": "LN tuning",
    "trainable_tokens_delta": "trainable tokens",
}
_PREFIXES = {"oft_unet": "OFT of sd-scripts", "oft_te": "OFT of sd-scripts"}

# Fused modules of Nunchaku's models, with names of factors that no trainer uses.
_NUNCHAKU = re.compile(
    r"transformer_blocks\.\d+\.(?:qkv_proj|out_proj|mlp_fc[12]|mlp_context_fc[12]|(?:qkv|out)_proj_context)"
    r"\.lora_(?:up|down)$"
)

# Names of wrappers around a whole model: keys directly below them belong to no module.
_NO_MODULE = ("", "base_model", "base_model.model")


def check_not_packed(keys: Iterable[str]) -> None:
    """UnsupportedAdapter for a file of Nunchaku's converter. It packs most factors for its kernels, but gives those of
    modulations, in another order, under names that are read: the file must not be read in part."""
    if packed := next((key for key in keys if _NUNCHAKU.search(key)), None):
        raise UnsupportedAdapter(
            f"Key {packed}: expected factors as they were trained, found those of a LoRA that was converted for "
            "Nunchaku, which packs and reorders them. Use the file that it was converted from."
        )


def kinds_of_keys(keys: Iterable[str]) -> dict[str, str]:
    """Key -> kind, for the keys of modules of a kind that is not read."""
    keys = list(keys)
    modules: dict[str, str] = {}
    kinds: dict[str, str] = {}
    for key in keys:
        kind, module = _kind_and_module(key)
        if kind is not None:
            kinds[key] = kind
            modules[module] = kind
    for wrapper in _NO_MODULE:
        modules.pop(wrapper, None)
    if not modules:
        return kinds
    return kinds | {key: kind for key in keys if key not in kinds and (kind := _kind_of_module(key, modules))}


def explain_unread_kind(kind: str) -> str:
    return f"it is of the kind {kind}, which is not read"


def names_unread_kind(reason: str) -> bool:
    return reason.endswith("which is not read")


@lru_cache(KEYS_KEPT)
def _kind_and_module(key: str) -> tuple[str | None, str]:
    parts = key.split(".")
    for index, part in enumerate(parts):
        if part in MARKS:
            return MARKS[part], ".".join(parts[:index])
    kind = next((kind for prefix, kind in _PREFIXES.items() if key.startswith(prefix)), None)
    return kind, parts[0]


def _kind_of_module(key: str, modules: Mapping[str, str]) -> str | None:
    ends = [end for end, letter in enumerate(key) if letter == "."]
    return next((modules[key[:end]] for end in reversed(ends) if key[:end] in modules), None)
