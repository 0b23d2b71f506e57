"""What a LoRA's file says about the base that it was trained on."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

from ....core.files.json_text import read_json
from .metadata import PROVENANCE

_LONGEST_NAME = 300  # characters
_LONGEST_SHOWN = 80

# Entries that name the base, the surest first. sd-scripts and musubi-tuner write the first.
_NAME_ENTRIES = (
    "ss_sd_model_name",
    "ss_pretrained_model_name_or_path",
    "pretrained_model_name_or_path",
    "base_model_name_or_path",
    "base_model_name",
    "base_model",
    "name_or_path",
)

# Keys inside of JSON entries: PEFT's and diffusers' settings, OneTrainer's and ai-toolkit's configurations.
_KEYS_IN_JSON = frozenset(
    ("base_model_name_or_path", "pretrained_model_name_or_path", "base_model_name", "name_or_path", "base_model")
)
_KEYS_IN_WORKFLOW = frozenset(("ckpt_name", "unet_name"))  # ComfyUI's `prompt`: it may load more than the base
_MOST_VALUES = 100_000  # of a JSON entry that are looked at

_LEGACY = re.compile(r"[0-9a-f]{8}")
_SHA256 = re.compile(r"[0-9a-f]{10,64}")  # sites show the first ten digits
_HASH_ENTRIES = ("ss_new_sd_model_hash", "ss_sd_model_hash")

_SDXL = ("SDXL", "SDXL_instructpix2pix", "SSD1B", "Segmind_Vega", "KOALA_700M", "KOALA_1B")
_FLUX = ("Flux", "FluxInpaint", "FluxSchnell")

# How the modelspec, sd-scripts and ai-toolkit call a kind of model -> ComfyUI's families. Longer beginnings come first.
_FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("stable-diffusion-xl-v1-refiner", ("SDXLRefiner",)),
    ("stable-diffusion-xl", _SDXL),
    ("stable-diffusion-v1", ("SD15", "SD15_instructpix2pix")),
    ("stable-diffusion-v2", ("SD20", "SD21UnclipL", "SD21UnclipH")),
    ("stable-diffusion-v3", ("SD3",)),
    ("stable-diffusion-3", ("SD3",)),
    ("sdxl", _SDXL),
    ("sd_v1", ("SD15", "SD15_instructpix2pix")),
    ("sd_1.5", ("SD15", "SD15_instructpix2pix")),
    ("sd1", ("SD15", "SD15_instructpix2pix")),
    ("sd_v2", ("SD20", "SD21UnclipL", "SD21UnclipH")),
    ("sd_2", ("SD20", "SD21UnclipL", "SD21UnclipH")),
    ("sd3", ("SD3",)),
    ("sd_3", ("SD3",)),
    ("ssd", ("SSD1B",)),
    ("vega", ("Segmind_Vega",)),
    ("flux-1-schnell", ("FluxSchnell",)),
    ("flux-1", ("Flux", "FluxInpaint")),
    ("flux.1", _FLUX),
    ("flux1", _FLUX),
    ("flux2", ("Flux2",)),
    ("flux-2", ("Flux2",)),
    ("chroma", ("Chroma", "ChromaRadiance")),
    ("anima", ("Anima",)),
)
TITLE = "modelspec.title"  # the LoRA's own title: only a hint, because it often holds the base's name

_FAMILY_ENTRIES = ("modelspec.architecture", "ss_base_model_version")


@dataclass(frozen=True)
class NameClue:
    """A name of the base, and the metadata entry that it is from. sure: the entry means the base and nothing else."""

    name: str
    entry: str
    sure: bool = True

    def shown(self) -> str:
        """The name as it may be shown: one short line."""
        return shorten(self.name)


@dataclass(frozen=True)
class BaseClues:
    """What an adapter's metadata say about its base.

    legacy, sha256: hashes of the base's file, in lower case; sha256 may be its beginning alone. fingerprint: the pack's
    own hash of the base. families: ComfyUI's names of the families that fit; empty if unknown. family: the text that
    says so.
    """

    names: tuple[NameClue, ...] = ()
    legacy: str | None = None
    sha256: str | None = None
    fingerprint: str | None = None
    families: tuple[str, ...] = ()
    family: str = ""


def read_base_clues(metadata: Mapping[str, str]) -> BaseClues:
    """Read the clues of an adapter's metadata. A LoRA that the pack transferred belongs to the base that it was
    transferred to, whatever its older entries say."""
    if (own := _own_entry(metadata)) is not None:
        return own
    family, families = _family(metadata)
    hashes = [metadata.get(entry, "").strip().lower() for entry in _HASH_ENTRIES]
    return BaseClues(
        names=tuple(dict.fromkeys(_names(metadata))),
        legacy=next((digest for digest in hashes if _LEGACY.fullmatch(digest)), None),
        sha256=next((digest for digest in hashes if _SHA256.fullmatch(digest)), None),
        families=families,
        family=family,
    )


def shorten(text: str) -> str:
    """A text of a file as it may be shown: one line of printable letters."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= _LONGEST_SHOWN else f"{line[: _LONGEST_SHOWN - 3]}..."


def _own_entry(metadata: Mapping[str, str]) -> BaseClues | None:
    entry = _json(metadata.get(PROVENANCE, ""))
    if not isinstance(entry, dict):
        return None
    # The difference of two bases is a LoRA for the first one, everything else of ours for the target.
    target = entry.get("source" if entry.get("kind") == "difference" else "target")
    name = target.get("name") if isinstance(target, dict) else None
    if not isinstance(target, dict) or not isinstance(name, str):
        return None
    fingerprint = target.get("fingerprint")
    # A base with a CLIP of its own has two hashes: "blake3:... + weights-blake3:...".
    whole = fingerprint.split(" + ")[0] if isinstance(fingerprint, str) else None
    return BaseClues((NameClue(name, PROVENANCE),), fingerprint=whole)


def _names(metadata: Mapping[str, str]) -> Iterator[NameClue]:
    for entry in _NAME_ENTRIES:
        if _is_name(name := metadata.get(entry)):
            yield NameClue(name, entry)
    for entry, text in metadata.items():
        if text.lstrip().startswith("{"):
            keys, sure = (_KEYS_IN_WORKFLOW, False) if entry in ("prompt", "workflow") else (_KEYS_IN_JSON, True)
            for name in _values_of(_json(text), keys):
                yield NameClue(name, entry, sure)
    if _is_name(title := metadata.get(TITLE)):
        yield NameClue(title, TITLE, sure=False)


def _is_name(name: Any) -> TypeGuard[str]:
    return isinstance(name, str) and 0 < len(name.strip()) <= _LONGEST_NAME


def _values_of(value: Any, keys: frozenset[str]) -> Iterator[str]:
    """The texts under these keys, anywhere in a JSON value."""
    level, seen = [value], 0
    while level and seen < _MOST_VALUES:
        seen += len(level)
        children: list[Any] = []
        for parent in level:
            if isinstance(parent, dict):
                table = cast("dict[str, Any]", parent)
                yield from (text for key, text in table.items() if key in keys and _is_name(text))
                children += table.values()
            elif isinstance(parent, list):
                children += cast("list[Any]", parent)
        level = children


def _family(metadata: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """(the text that says the family, ComfyUI's families); ("", ()) if no entry does, or if none is known."""
    for entry in _FAMILY_ENTRIES:
        said = metadata.get(entry, "").strip().lower()
        for beginning, families in _FAMILIES:
            if said.startswith(beginning):
                return f"{shorten(said)} ({entry})", families
    return "", ()


def _json(text: str) -> Any:
    """An entry read as JSON; None if it is none."""
    try:
        return read_json(text)
    except ValueError:
        return None
