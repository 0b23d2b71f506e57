"""Compares names of models: as people, trainers and download sites spell them."""

import re
from dataclasses import dataclass

# Endings of model files. A name without one of these may end in a version: "sd_xl_base_1.0".
_ENDINGS = re.compile(r"\.(?:safetensors|sft|ckpt|pt|pth|bin|gguf)$", re.IGNORECASE)

# Words that say how a model was stored, not which model it is.
_OF_STORAGE = re.compile(
    r"^(?:f(?:p|loat)?(?:8|16|32)|bf16|e4m3(?:fn)?|e5m2|scaled|mixed|nvfp4|int8|q\d\w*|pruned|full|ema|emaonly|noema|nonema|"
    r"(?:no|with|baked|0\.9)?vae|diffusers|comfy|comfyui)$",
    re.IGNORECASE,
)

# Names that say nothing, without separators and in lower case.
_GENERIC = {
    *("model", "diffusionpytorchmodel", "pytorchmodel", "unet", "transformer", "checkpoint", "ckpt", "last", "final"),
    *("base", "merged", "merge", "output", "lora", "test", "none", "null", "unknown", "custom"),
    *("sd", "sd1", "sd15", "sd2", "sd21", "sd3", "sdxl", "xl", "flux", "flux1", "flux2", "anima", "wan", "qwen"),
}

# Names of models whose files have other names, most of them the hub's, as `ModelName.core` spells both.
_SAME_MODELS = {
    "stablediffusionv15": "v15",
    "sd15": "v15",
    "sdv15": "v15",
    "stablediffusionxlbase10": "sdxlbase10",
    "sdxlbase100vaefix": "sdxlbase10",
    "sdxlbasev10": "sdxlbase10",
    "stablediffusionxlrefiner10": "sdxlrefiner10",
    "stablediffusion21": "v21768",
    "stablediffusion21base": "v21512",
}

_SHORTEST = 4  # letters and digits of a name that is compared with a part of another name ("pony")


@dataclass(frozen=True)
class ModelName:
    """A model's name. plain: its letters and digits. core: the same without words on precision and storage."""

    plain: str
    core: str

    @staticmethod
    def of(name: str) -> "ModelName":
        """The name of a file, a path (of any system) or a model on a hub."""
        stem = _ENDINGS.sub("", re.split(r"[\\/]", name.strip())[-1])
        words = [word for word in re.split(r"[\s_-]+", stem) if not _OF_STORAGE.match(word)]
        core = _letters("".join(words)) or _letters(stem)
        return ModelName(_letters(stem), _SAME_MODELS.get(core, core))

    @property
    def is_generic(self) -> bool:
        """Whether many different models have this name."""
        return self.core in _GENERIC or self.plain in _GENERIC or self.core.isdigit() or len(self.core) < 2

    def is_part_of(self, text: str) -> bool:
        """Whether a longer text, such as a path, contains this name."""
        return len(self.core) >= _SHORTEST and not self.is_generic and self.core in _letters(text)

    def is_like(self, name: "ModelName") -> bool:
        """Whether one of two names begins with the other, as those of two versions of a model do."""
        short, long = sorted((self.core, name.core), key=len)
        return len(short) >= _SHORTEST and short not in _GENERIC and long.startswith(short)


def _letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())
