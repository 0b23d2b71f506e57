"""What trainers put before a module's name. A prefix is one entry here."""

import re
from collections.abc import Iterator

# Of the diffusion model. They may stand one behind another, in any order and repeatedly.
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

_MOST = 5  # that any file puts one behind another

# Of a text encoder: kohya's and diffusers'. The number says which of the model's encoders; none is the first.
_ENCODER = re.compile(r"^(?:lora_te|text_encoder_?)([123]?)[._]")

# Where a name passed all of the prefixes above, the same prefixes spelled with underscores are tried.
_UNDERSCORED = tuple(prefix.replace(".", "_") for prefix in PREFIXES if prefix.endswith("."))


def flatten(name: str) -> str:
    """The name with underscores for dots: all spellings of one name have it in common."""
    return name.replace(".", "_").strip("_")


def split_encoder(name: str) -> tuple[str, str]:
    """(number of the text encoder, the name without its prefix); ("", name) where no prefix names an encoder."""
    number, rest = "", name
    while encoder := _ENCODER.match(rest):
        number, rest = encoder[1] or number or "1", rest[encoder.end() :]
    return number, rest


def flat_names(name: str) -> Iterator[str]:
    """The flat name and what remains of it behind each known prefix, the longest first."""
    number, rest = split_encoder(name)
    yield from (f"te{number}_{flat}" if number else flat for flat in _behind_prefixes(rest, PREFIXES))


def flat_names_of_underscored(name: str) -> Iterator[str]:
    """The same, with prefixes whose dots became underscores too (lora_unet_transformer_...). They are for names that
    have no other reading: `transformer_` also begins `transformer_blocks`, which is no prefix."""
    yield from _behind_prefixes(name, (*PREFIXES, *_UNDERSCORED))


def _behind_prefixes(name: str, prefixes: tuple[str, ...]) -> Iterator[str]:
    rests = [name]
    for _ in range(_MOST + 1):
        yield from map(flatten, rests)
        known = [rest for rest in rests if rest.startswith(prefixes)]
        rests = list({rest.removeprefix(one): None for rest in known for one in prefixes if rest.startswith(one)})
        if not rests:
            return
