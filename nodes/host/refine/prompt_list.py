"""Prompts for Refine: the user's own, the LoRA's as its file tells them, or plain ones; and their conditioning."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ....core.errors import InvalidSetting
from ....core.files.json_text import read_json
from ....core.progress import Progress, silent

_TRIGGER, _TAGS = "modelspec.trigger_phrase", "ss_tag_frequency"

_FEWEST_TAGS = 8  # fewer give the same few prompts again and again
_BESIDE = (2, 6)  # tags that stand beside the trigger in a prompt: at least, and fewer than
_CAPTION = 5  # words from which a tag is a sentence: sd-scripts cuts captions at their commas, and calls the parts tags
_LARGEST_COUNT = 1e9  # of a tag; beyond it the entry is no count of pictures
_LONGEST_PHRASE = 500  # characters of a tag or trigger phrase: text encoders read about 300 of a prompt, or 2,000
_LONGEST_PROMPT = 20_000  # characters; encoding takes memory by the square of them (1 MB took 21 GB)


@dataclass(frozen=True)
class Prompts:
    """prompts: in order; origin: where they come from, as a sentence for a person."""

    prompts: tuple[str, ...]
    origin: str


@dataclass(frozen=True)
class TrainingWords:
    """What a LoRA's file says of the words that it was trained on. trigger: empty where it is not known; tags: by how
    often they were seen; passed_over: entries that cannot be read, and why."""

    trigger: str
    tags: Mapping[str, float]
    passed_over: tuple[str, ...]


def choose_prompts(text: str, metadata: Mapping[str, str], count: int, seed: int) -> Prompts:
    """At most `count` prompts: the lines of a text; without one, of the LoRA's own tags; without those, plain ones with
    the trigger words in front. The same seed gives the same prompts."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines:
        kept = lines[:count]
        more = f", the first of {len(lines)}" if len(kept) < len(lines) else ""
        return Prompts(tuple(kept), f"{_count(kept)} of your own{more}")
    spoken, generator = read_words(metadata), torch.Generator().manual_seed(seed)
    if len(spoken.tags) >= _FEWEST_TAGS:
        found = _draw_from_tags(spoken, count, generator)
        origin = f"{_count(found)} of the LoRA's own tags, each with “{spoken.trigger}”"
    else:
        found = _draw_plain(spoken.trigger, count, generator)
        led = f" with “{spoken.trigger}” in front" if spoken.trigger else ": the file tells no trigger words"
        origin = f"{_count(found)} from the bundled list{led}"
    return Prompts(tuple(found), "; ".join([origin, *spoken.passed_over]))


def read_words(metadata: Mapping[str, str]) -> TrainingWords:
    """Trigger words and tags out of a file's metadata. Without a trigger phrase the most frequent tag is taken for it;
    what is no JSON or of another type is passed over, and told."""
    tags, passed_over = _read_tags(metadata.get(_TAGS, ""))
    phrase = " ".join(metadata.get(_TRIGGER, "").split())
    if len(phrase) > _LONGEST_PHRASE:
        too_long = f"its {_TRIGGER} has {len(phrase):,} characters and was passed over"
        phrase, passed_over = "", (too_long, *passed_over)
    return TrainingWords(phrase or max(tags, key=lambda tag: tags[tag], default=""), tags, passed_over)


def encode_prompts(clip: Any, prompts: tuple[str, ...], name: str, progress: Progress = silent) -> list[Any]:
    """One entry of ComfyUI's CONDITIONING for each prompt, as its own CLIP Text Encode makes them."""
    if clip is None:
        raise InvalidSetting(
            f"Prompts for Refine, {name}: expected a text encoder, found none. The checkpoint holds none: load one "
            "with Load CLIP."
        )
    longest = max((len(prompt) for prompt in prompts), default=0)
    if longest > _LONGEST_PROMPT:
        raise InvalidSetting(
            f"Prompts for Refine, {name}: expected prompts of at most {_LONGEST_PROMPT:,} characters, found one of "
            f"{longest:,}. Shorten it."
        )
    entries: list[Any] = []
    for index, prompt in enumerate(prompts):
        progress(index, len(prompts), prompt)
        encoded = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        if len(encoded) != 1:
            raise InvalidSetting(
                f"Prompts for Refine, {name}: expected one conditioning for a prompt, found {len(encoded)}. Connect "
                "the text encoder without hooks on a schedule."
            )
        entries += encoded
    progress(len(prompts), len(prompts), "")
    return entries


def _read_tags(written: str) -> tuple[dict[str, float], tuple[str, ...]]:
    """sd-scripts' {dataset: {tag: count}} summed over the datasets, and what of it had to be passed over."""
    if not written:
        return {}, ()
    try:
        datasets = read_json(written)
    except json.JSONDecodeError:
        return {}, (f"its {_TAGS} is no JSON and was passed over",)
    except ValueError as error:
        return {}, (f"its {_TAGS} was passed over: {error}",)
    if not isinstance(datasets, dict):
        return {}, (f"its {_TAGS} is no table of datasets and was passed over",)
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
    return dict(tags), (f"{odd} odd entries of its {_TAGS} were passed over",) if odd else ()


def _is_text(words: str) -> bool:
    """Whether words can be encoded: JSON can spell halves of letters, at which every tokenizer stops."""
    return not any("\ud800" <= letter <= "\udfff" for letter in words)


def _draw_from_tags(spoken: TrainingWords, count: int, generator: torch.Generator) -> list[str]:
    """The trigger words and a few tags, drawn as often as they were seen; a tag that is a sentence stands alone."""
    others = {tag: often for tag, often in spoken.tags.items() if tag != spoken.trigger}
    names, weights = list(others), torch.tensor(list(others.values()), dtype=torch.float64)
    found: dict[str, None] = {}
    for _ in range(4 * count):  # some come twice
        size = min(int(torch.randint(*_BESIDE, (1,), generator=generator)), len(names))
        drawn = [names[index] for index in torch.multinomial(weights, size, generator=generator).tolist()]
        sentence = next((tag for tag in drawn if len(tag.split()) >= _CAPTION), None)
        found[", ".join([spoken.trigger, *(drawn if sentence is None else [sentence])])] = None
        if len(found) == count:
            break
    return list(found)


def _draw_plain(trigger: str, count: int, generator: torch.Generator) -> list[str]:
    lines = read_plain_prompts()
    drawn = torch.randperm(len(lines), generator=generator)[:count].tolist()
    return [f"{trigger}, {lines[index]}" if trigger else lines[index] for index in drawn]


def read_plain_prompts() -> list[str]:
    """People, animals, places, things and food, in few words and in many."""
    return Path(__file__).with_name("plain_prompts.txt").read_text(encoding="utf-8").splitlines()


def _count(prompts: list[str]) -> str:
    return "1 prompt" if len(prompts) == 1 else f"{len(prompts)} prompts"
