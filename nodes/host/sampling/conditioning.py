"""Splits a CONDITIONING into its prompts, and joins prompts into a CONDITIONING."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from ....core.errors import NotMeasurable

# Options that limit a prompt to a part of the picture or of the steps, or tie it to another model.
_PARTIAL = ("area", "mask", "control", "gligen", "hooks", "start_percent", "end_percent", "clip_start_percent")


@dataclass(frozen=True)
class Prompt:
    """One prompt. text: (1, tokens, width), or None for a model without text; options: as ComfyUI has them."""

    text: Tensor | None
    options: Mapping[str, Any]

    @property
    def form(self) -> tuple[Any, ...]:
        """Prompts of the same form can be joined."""
        tensors = {"": self.text, **self.options}
        return tuple((key, _form(value)) for key, value in sorted(tensors.items()))


def split_conditioning(conditioning: Any) -> list[Prompt]:
    """Every prompt of a CONDITIONING. An entry with a batch of N is N prompts. NotMeasurable if an entry is limited to
    a part of the picture or of the steps, or tied to another model."""
    prompts: list[Prompt] = []
    for text, options in conditioning:
        if partial := next((key for key in _PARTIAL if key in options), None):
            raise NotMeasurable(
                f"The conditioning: expected prompts for the whole picture and all steps, found a prompt with "
                f"{partial}. Connect the prompts straight from the text encoder."
            )
        count = 1 if text is None else len(text)
        prompts += [Prompt(_row(text, index, count), _rows(options, index, count)) for index in range(count)]
    return prompts


def join_prompts(prompts: Sequence[Prompt]) -> Any:
    """Prompts of the same form as a CONDITIONING of one entry, with a row for each."""
    first = prompts[0]
    text = None if first.text is None else torch.cat([prompt.text for prompt in prompts if prompt.text is not None])
    options = {key: _cat(value, [prompt.options[key] for prompt in prompts]) for key, value in first.options.items()}
    return [[text, options]]


def part(conditioning: Any, index: int, count: int) -> Any:
    """The part of a CONDITIONING that belongs to one of `count` latents."""
    return [[_row(text, index, count), _rows(options, index, count)] for text, options in conditioning]


def hash_prompts(prompts: Iterable[Prompt]) -> str:
    """A hash of the prompts; UnknownContent if one holds a value that cannot be hashed by its content."""
    hasher = hashlib.sha256()
    for prompt in prompts:
        add_to_digest(hasher, {"": prompt.text, **prompt.options})
    return hasher.hexdigest()


def _row(value: Any, index: int, count: int) -> Any:
    return value[index : index + 1] if isinstance(value, Tensor) and _is_batch(value, count) else value


def _rows(options: Mapping[str, Any], index: int, count: int) -> dict[str, Any]:
    return {key: _row(value, index, count) for key, value in options.items()}


def _is_batch(value: Tensor, count: int) -> bool:
    return value.ndim > 0 and len(value) == count


def _form(value: Any) -> Any:
    """What two values must have in common to be joined."""
    if isinstance(value, Tensor) and _is_batch(value, 1):
        return tuple(value.shape)
    return repr(value) if isinstance(value, (str, int, float, type(None))) else id(value)


def _cat(first: Any, values: list[Any]) -> Any:
    return torch.cat(values) if isinstance(first, Tensor) and _is_batch(first, 1) else first


class UnknownContent(Exception):
    """A value that cannot be hashed by its content: two equal-looking values may differ."""


def add_to_digest(hasher: Any, value: Any) -> None:
    """Add a value of a prompt or of a patch to a hash, by its content. Its type and length come first, so that no two
    values give the same bytes. UnknownContent for an object of any other type."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous().flatten()
        hasher.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        hasher.update(plain.view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        hasher.update(f"mapping {len(value)} ".encode())
        for key, item in sorted(value.items(), key=lambda pair: str(pair[0])):
            add_to_digest(hasher, str(key))
            add_to_digest(hasher, item)
    elif isinstance(value, (list, tuple)):
        hasher.update(f"list {len(value)} ".encode())
        for item in value:
            add_to_digest(hasher, item)
    elif isinstance(value, (str, bytes, int, float, type(None), torch.dtype, torch.device)):
        written = repr(value)
        hasher.update(f"{type(value).__name__} {len(written)} {written} ".encode(errors="surrogatepass"))
    elif isinstance(value, FunctionType):  # such as the swap of scale and shift in Flux's last layer
        add_to_digest(hasher, f"{value.__module__}.{value.__qualname__}")
    else:
        raise UnknownContent(type(value).__name__)
