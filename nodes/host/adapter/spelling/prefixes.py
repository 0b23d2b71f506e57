"""The prefixes that trainers put before a module's name. A new prefix is one entry here."""

import re
from collections.abc import Iterator

# Prefixes of the diffusion model. They may follow each other in any order, and repeat.
PREFIXES = (
    "diffusion_model.",
    "model.",  # model.diffusion_model.: a checkpoint's own names
    "unet.",
    "transformer.",
    "transformer_2.",  # the second of a pipeline with two: Wan 2.2's expert for low noise
    "base_model.model.",  # PEFT
    "pipe.dit.",  # DiffSynth
    "dit.",
    "net.",  # Cosmos, Anima
    "conditional_transformer.",  # Ideogram
    "module.",  # torch's parallel training
    "_orig_mod.",  # torch.compile
    "lora_unet_",
    "lora_transformer_",  # OneTrainer
    "lora_prior_unet_",  # Stable Cascade
    "lycoris_",
)

# The parts of a pipeline, as diffusers calls them: the diffusion model, and the second of a pipeline with two.
DIFFUSION_PARTS = ("unet", "transformer")
SECOND_PART = "transformer_2"

# The text encoders of a pipeline, as diffusers calls them -> how the names of their modules begin.
TEXT_ENCODERS = {
    "text_encoder_2": ("text_encoder_2.", "lora_te2_"),
    "text_encoder_3": ("text_encoder_3.", "lora_te3_"),
    "text_encoder": ("text_encoder.", "lora_te_", "lora_te1_", "text_model."),
}

# How keys begin that belong to any text encoder, also to those of unknown number.
ANY_TEXT_ENCODER = ("lora_te", "text_encoder", "text_model", "lora_prior_te")

_MOST = 5  # prefixes in a row in any file

# Prefixes of a text encoder, kohya's and diffusers'. The number is that of the encoder; no number means the first.
_ENCODER = re.compile(r"^(?:lora_te|text_encoder_?)([123]?)[._]")

# If none of the prefixes above gives a known name, they are also tried with underscores for dots.
_UNDERSCORED = tuple(prefix.replace(".", "_") for prefix in PREFIXES if prefix.endswith("."))


def flatten(name: str) -> str:
    """The name with underscores for dots, which is the same for all spellings of a name."""
    return name.replace(".", "_").strip("_")


def split_encoder(name: str) -> tuple[str, str]:
    """(number of the text encoder, the name without its prefix); ("", name) if there is no such prefix."""
    number, rest = "", name
    while encoder := _ENCODER.match(rest):
        number, rest = encoder[1] or number or "1", rest[encoder.end() :]
    return number, rest


def flat_names(name: str) -> Iterator[str]:
    """The flat name, and what remains of it after each known prefix, the longest first."""
    number, rest = split_encoder(name)
    yield from (f"te{number}_{flat}" if number else flat for flat in _behind_prefixes(rest, PREFIXES))


def flat_names_of_underscored(name: str) -> Iterator[str]:
    """The same, also with prefixes whose dots became underscores (lora_unet_transformer_...). Only for names that have
    no other meaning, because `transformer_` is also the beginning of `transformer_blocks`."""
    yield from _behind_prefixes(name, (*PREFIXES, *_UNDERSCORED))


def _behind_prefixes(name: str, prefixes: tuple[str, ...]) -> Iterator[str]:
    rests = [name]
    for _ in range(_MOST + 1):
        yield from map(flatten, rests)
        known = [rest for rest in rests if rest.startswith(prefixes)]
        rests = list(
            {rest.removeprefix(prefix): None for rest in known for prefix in prefixes if rest.startswith(prefix)}
        )
        if not rests:
            return
