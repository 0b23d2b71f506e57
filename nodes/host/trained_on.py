"""Guesses which base file on this disk a LoRA was trained on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .adapter.adapter import Adapter
from .base.from_model import HostBase
from .paths import base_path


@dataclass(frozen=True)
class Guess:
    """Which base file a LoRA was trained on, as far as its file tells.

    base_name: a name of paths.base_names(), or None. sure: the file is named by the LoRA, by hash or by name; False
    means that the user should choose. is_target: base_name is the target itself, so that nothing needs a transfer.
    evidence: one sentence for each fact that speaks for or against a file. candidates: the files that the LoRA fits,
    without the target, the likeliest first.
    """

    base_name: str | None
    sure: bool
    evidence: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    is_target: bool = False


def guess_source(
    adapter: Adapter, target: HostBase, bases: Sequence[str], path_of: Callable[[str], Path] = base_path
) -> Guess:
    """Guess which of these base files a LoRA was trained on. Reads headers, and hashes only where they decide.

    bases: names of paths.base_names(). path_of: the path of such a name.
    """
    return Guess(None, False, (), ())
