"""Prompts for Refine: the user's own, prompts from the tags in the LoRA's file, or plain ones; and their
conditioning."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ....core.errors import InvalidSetting
from ....core.files.json_text import read_json
from ....core.progress import Progress, ignore_progress

_TRIGGER, _TAGS = "modelspec.trigger_phrase", "ss_tag_frequency"

_FEWEST_TAGS = 8  # fewer tags give the same few prompts again and again
_BESIDE = (2, 6)  # the number of tags beside the trigger in a prompt: at least 2, fewer than 6
_CAPTION = 5  # a tag of so many words is a sentence: sd-scripts cuts captions at commas and calls the parts tags
_LARGEST_COUNT = 1e9  # of a tag; a larger number is not a count of pictures
_LONGEST_PHRASE = 500  # characters of a tag or trigger phrase: text encoders read about 300 of a prompt, or 2,000
_LONGEST_PROMPT = 20_000  # characters; the memory for encoding grows with their square (1 MB took 21 GB)


@dataclass(frozen=True)
class Prompts:
    """prompts: in order; origin: where they come from, as a sentence for the user."""

    prompts: tuple[str, ...]
    origin: str


@dataclass(frozen=True)
class TrainingWords:
    """The words that a LoRA was trained on, from its file. trigger: empty if it is not known; tags: tag -> how often it
    occurred in training; notes: on entries that were ignored."""

    trigger: str
    tags: Mapping[str, float]
    notes: tuple[str, ...]


def choose_prompts(text: str, metadata: Mapping[str, str], count: int, seed: int) -> Prompts:
    """At most `count` prompts: the lines of the text; without a text, prompts from the LoRA's tags; without tags, plain
    prompts that begin with the trigger words. The same seed gives the same prompts."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines:
        first = lines[:count]
        more = f", the first of {len(lines)}" if len(first) < len(lines) else ""
        return Prompts(tuple(first), f"{_count(first)} of your own{more}")
    words, generator = read_words(metadata), torch.Generator().manual_seed(seed)
    if len(words.tags) >= _FEWEST_TAGS:
        prompts = _draw_from_tags(words, count, generator)
        origin = f"{_count(prompts)} from the LoRA's own tags, each with “{words.trigger}”"
    else:
        prompts = _draw_plain(words.trigger, count, generator)
        trigger = f" with “{words.trigger}” in front" if words.trigger else ": the file names no trigger words"
        origin = f"{_count(prompts)} from the bundled list{trigger}"
    return Prompts(tuple(prompts), "; ".join([origin, *words.notes]))


def read_words(metadata: Mapping[str, str]) -> TrainingWords:
    """Trigger words and tags from a file's metadata. Without a trigger phrase, the most frequent tag is the trigger.
    Entries that cannot be read are ignored, with a note."""
    tags, notes = _read_tags(metadata.get(_TAGS, ""))
    phrase = " ".join(metadata.get(_TRIGGER, "").split())
    if len(phrase) > _LONGEST_PHRASE:
        too_long = f"its {_TRIGGER} was ignored: it has {len(phrase):,} characters"
        phrase, notes = "", (too_long, *notes)
    return TrainingWords(phrase or max(tags, key=lambda tag: tags[tag], default=""), tags, notes)


def encode_prompts(clip: Any, prompts: tuple[str, ...], name: str, progress: Progress = ignore_progress) -> list[Any]:
    """A CONDITIONING with one entry for each prompt, as ComfyUI's CLIP Text Encode makes them."""
    if clip is None:
        raise InvalidSetting(
            f"Prompts for Refine, {name}: expected a text encoder, found none. The checkpoint has no text encoder: "
            "load one with Load CLIP."
        )
    longest = max((len(prompt) for prompt in prompts), default=0)
    if longest > _LONGEST_PROMPT:
        raise InvalidSetting(
            f"Prompts for Refine, {name}: expected prompts of at most {_LONGEST_PROMPT:,} characters, found a prompt "
            f"of {longest:,}. Shorten it."
        )
    entries: list[Any] = []
    for index, prompt in enumerate(prompts):
        progress(index, len(prompts), prompt)
        encoded = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        if len(encoded) != 1:
            raise InvalidSetting(
                f"Prompts for Refine, {name}: expected one conditioning for each prompt, found {len(encoded)}. Connect "
                "a text encoder without scheduled hooks."
            )
        entries += encoded
    progress(len(prompts), len(prompts), "")
    return entries


def _read_tags(written: str) -> tuple[dict[str, float], tuple[str, ...]]:
    """(tag -> count, notes on ignored entries) from sd-scripts' {dataset: {tag: count}}, summed over the datasets."""
    if not written:
        return {}, ()
    try:
        datasets = read_json(written)
    except json.JSONDecodeError:
        return {}, (f"its {_TAGS} was ignored: it is not JSON",)
    except ValueError as error:
        return {}, (f"its {_TAGS} was ignored: {error}",)
    if not isinstance(datasets, dict):
        return {}, (f"its {_TAGS} was ignored: it is not a table of datasets",)
    tags, odd = Counter[str](), 0
    for dataset in datasets.values():
        if not isinstance(dataset, dict):
            odd += 1
            continue
        for tag, count in dataset.items():
            words = " ".join(tag.split()) if len(tag) <= _LONGEST_PHRASE else ""
            if not words or not _is_text(words) or type(count) not in (int, float) or not 0 < count < _LARGEST_COUNT:
                odd += 1
            else:
                tags[words] += count
    return dict(tags), (f"{odd} odd entries of its {_TAGS} were ignored",) if odd else ()


def _is_text(words: str) -> bool:
    """Whether words can be encoded: JSON can spell half characters (surrogates), which no tokenizer takes."""
    return not any("\ud800" <= letter <= "\udfff" for letter in words)


def _draw_from_tags(words: TrainingWords, count: int, generator: torch.Generator) -> list[str]:
    """The trigger words and a few tags, drawn by how often they occurred. A tag that is a sentence is the only one."""
    others = {tag: often for tag, often in words.tags.items() if tag != words.trigger}
    names, weights = list(others), torch.tensor(list(others.values()), dtype=torch.float64)
    prompts: dict[str, None] = {}
    for _ in range(4 * count):  # some are drawn twice
        size = min(int(torch.randint(*_BESIDE, (1,), generator=generator)), len(names))
        drawn = [names[index] for index in torch.multinomial(weights, size, generator=generator).tolist()]
        sentence = next((tag for tag in drawn if len(tag.split()) >= _CAPTION), None)
        prompts[", ".join([words.trigger, *(drawn if sentence is None else [sentence])])] = None
        if len(prompts) == count:
            break
    return list(prompts)


def _draw_plain(trigger: str, count: int, generator: torch.Generator) -> list[str]:
    lines = read_plain_prompts()
    drawn = torch.randperm(len(lines), generator=generator)[:count].tolist()
    return [f"{trigger}, {lines[index]}" if trigger else lines[index] for index in drawn]


def read_plain_prompts() -> list[str]:
    """The bundled prompts: people, animals, places, things and food, in short and long sentences."""
    return Path(__file__).with_name("plain_prompts.txt").read_text(encoding="utf-8").splitlines()


def _count(prompts: list[str]) -> str:
    return "1 prompt" if len(prompts) == 1 else f"{len(prompts)} prompts"
