"""Guesses which base file on this disk a LoRA was trained on."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .adapter.adapter import Adapter
from .adapter.base_clues import BaseClues
from .adapter.clues_beside import read_all_clues
from .base.clue_hashes import check_hashes
from .base.file_names import ModelName
from .base.fit import BaseFits, find_fitting_bases
from .base.from_model import HostBase
from .paths import base_path
from .settings import subspace_cache

_ITSELF = "this LoRA was trained on the target itself: load it as it is, nothing needs to be transferred"


@dataclass(frozen=True)
class Guess:
    """Which base file a LoRA was trained on, as far as its file tells.

    base_name: a name of paths.base_names(), or None. sure: the LoRA names this file by its hash or by its name; False
    means that the user should choose. is_target: base_name is the target itself, so that nothing needs a transfer.
    evidence: one sentence for each fact that speaks for or against a file. candidates: the files that the LoRA fits,
    without the target, the likeliest first.
    """

    base_name: str | None
    sure: bool
    evidence: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    is_target: bool = False


@dataclass(frozen=True)
class _BaseFile:
    """A base file that the LoRA fits. hash_agrees: whether it has the hash that the LoRA names; None if unknown.
    proven: it has the full hash."""

    name: str
    path: Path
    model: ModelName
    is_target: bool
    hash_agrees: bool | None = None
    proven: bool = False


def guess_source(
    adapter: Adapter, target: HostBase, bases: Sequence[str], path_of: Callable[[str], Path] = base_path
) -> Guess:
    """Guess which of these base files a LoRA was trained on. Reads headers, and hashes only where they decide.

    bases: names of paths.base_names(). path_of: the path of such a name.
    """
    cache = subspace_cache()
    clues = read_all_clues(adapter)
    fits = find_fitting_bases(adapter, bases, path_of, cache)
    files = [_base_file(name, path_of(name), target) for name in fits.fitting if _is_of_family(fits, name, clues)]
    hashes = check_hashes({file.name: (file.path, _has_name(file, clues)) for file in files}, clues, cache)
    files = [replace(file, hash_agrees=hashes[file.name].agrees, proven=hashes[file.name].proven) for file in files]
    evidence = (*_describe_clues(clues), *_describe_fits(fits, clues, files))
    guess = _by_hash(files, clues) or _by_name(files, clues) or _by_likeness(files, clues, adapter) or _by_count(files)
    return _complete(guess, files, evidence)


def _base_file(name: str, path: Path, target: HostBase) -> _BaseFile:
    # Some loaders do not say which file their model is from; then its name counts, which may be without a folder.
    is_target = target.name in (name, name.rpartition("/")[2], path.name)
    if target.path is not None and target.path.exists():
        is_target = path.samefile(target.path)
    return _BaseFile(name, path, ModelName.of(name), is_target)


def _is_of_family(fits: BaseFits, name: str, clues: BaseClues) -> bool:
    return not clues.families or fits.fitting[name] in clues.families


def _names(clues: BaseClues) -> list[ModelName]:
    """The names that the LoRA itself gives its base."""
    return [name for clue in clues.names if clue.sure and not (name := ModelName.of(clue.name)).is_generic]


def _has_name(file: _BaseFile, clues: BaseClues) -> bool:
    """Whether a file has the name that the LoRA gives its base, in this or another precision."""
    return any(name.core == file.model.core for name in _names(clues))


def _by_hash(files: Sequence[_BaseFile], clues: BaseClues) -> Guess | None:
    hits = _without_copies([file for file in files if file.proven])
    if not hits:
        return None
    what = "the content" if clues.sha256 is None else f"the SHA-256 ({clues.sha256[:10]}...)"
    return Guess(hits[0].name, True, (f"{hits[0].name} has {what} of the base that the LoRA names",))


def _by_name(files: Sequence[_BaseFile], clues: BaseClues) -> Guess | None:
    """The only file with the name that the LoRA gives its base. A file with another hash may be another version."""
    named = [file for file in files if _has_name(file, clues)]
    exact = [file for file in named if any(name.plain == file.model.plain for name in _names(clues))]
    hits = _without_copies([file for file in exact or named if file.hash_agrees is not False])
    if len(hits) == 1 and not hits[0].hash_agrees and len({name.core for name in _names(clues)}) > 1:
        return Guess(hits[0].name, False, (f"the LoRA names several bases, of which only {hits[0].name} is here",))
    if len(hits) == 1:
        agrees = " and the same hash at its beginning" if hits[0].hash_agrees else ""
        what = "the name" if hits[0] in exact else "the name, in another precision,"
        return Guess(hits[0].name, True, (f"{hits[0].name} has {what} of the base that the LoRA names{agrees}",))
    if hits:
        sentence = f"{_list(hits)} have the name of the base that the LoRA names, but are not the same file"
        return _undecided(hits, sentence)
    others = [file for file in named if not file.is_target]
    if not others:
        return None
    sentence = f"{_list(others)}: the name is that of the LoRA's base, but the hash is not; it may be another version"
    return Guess(others[0].name, False, (sentence,)) if len(others) == 1 else _undecided(others, sentence)


def _by_likeness(files: Sequence[_BaseFile], clues: BaseClues, adapter: Adapter) -> Guess | None:
    """A file whose name is like a name in the metadata or beside the LoRA, or is a part of the LoRA's own name. Weak
    evidence, so it never names the target."""
    path = Path(adapter.name) if adapter.path is None else Path(adapter.path.parent.name, adapter.path.name)
    names = [ModelName.of(clue.name) for clue in clues.names] + [ModelName.of(path.parent.name)]
    others = [file for file in files if not file.is_target and file.hash_agrees is not False]
    like = [file for file in others if any(name.is_like(file.model) for name in names)]
    part = [file for file in others if file.model.is_part_of(str(path))]
    for hits, why in ((like, "like a name that the LoRA or its folder gives"), (part, "a part of the LoRA's own name")):
        if len(hits) == 1:
            return Guess(hits[0].name, False, (f"the name of {hits[0].name} is {why}: this is a weak guess",))
        if hits:
            return _undecided(hits, f"several names are {why}: {_list(hits)}")
    return None


def _undecided(hits: Sequence[_BaseFile], sentence: str) -> Guess:
    """No guess, but these files are likelier than others."""
    return Guess(None, False, (sentence,), tuple(file.name for file in hits))


def _by_count(files: Sequence[_BaseFile]) -> Guess:
    others = [file for file in files if not file.is_target and file.hash_agrees is not False]
    if len(others) == 1:
        name = others[0].name
        return Guess(name, False, (f"{name} is the only other base file that it fits: this is a weak guess",))
    return Guess(None, False, ())


def _complete(guess: Guess, files: Sequence[_BaseFile], evidence: Iterable[str]) -> Guess:
    """The guess with all evidence and the candidates: first its own, then those that no hash speaks against."""
    is_target = any(file.is_target for file in files if file.name == guess.base_name)
    sentences = [*evidence, *guess.evidence, *([_ITSELF] if is_target else [])]
    others = [file for file in files if not file.is_target]
    likely = (guess.base_name, *guess.candidates)
    others.sort(key=lambda file: (file.name not in likely, file.hash_agrees is False))
    return replace(
        guess, evidence=tuple(sentences), candidates=tuple(file.name for file in others), is_target=is_target
    )


def _without_copies(files: Sequence[_BaseFile]) -> list[_BaseFile]:
    """The files without copies of the same size and name; of copies the target stays."""
    copies: dict[tuple[str, int], _BaseFile] = {}
    for file in sorted(files, key=lambda file: not file.is_target):
        copies.setdefault((file.model.plain, file.path.stat().st_size), file)
    return list(copies.values())


def _describe_clues(clues: BaseClues) -> list[str]:
    sure = [clue for clue in clues.names if clue.sure]
    sentences = [f"the LoRA names its base: {clue.shown()} ({clue.entry})" for clue in sure[:3]]
    if clues.family:
        sentences.append(f"the LoRA says which kind of model it is for: {clues.family}")
    if not sure and clues.sha256 is None and clues.legacy is None:
        sentences.append("the LoRA's metadata do not name its base")
    return sentences


def _describe_fits(fits: BaseFits, clues: BaseClues, files: Sequence[_BaseFile]) -> list[str]:
    """What the base files' layers say; also why a file that has the LoRA's name for its base cannot be it."""
    total = len(fits.fitting) + len(fits.misfits) + len(fits.unreadable)
    sentences = [f"the LoRA fits {len(files)} of the {total} base files on this disk"]
    cores = {name.core for name in _names(clues)}
    for name, share in fits.misfits.items():
        if ModelName.of(name).core in cores:
            sentences.append(f"{name} has the name of its base, but only {share:.0%} of the LoRA fits its layers")
    for name, reason in fits.unreadable.items():
        if ModelName.of(name).core in cores:
            sentences.append(f"{name} has the name of its base, but cannot be read: {reason}")
    return sentences


def _list(files: Sequence[_BaseFile]) -> str:
    names = [file.name for file in files[:4]]
    more = len(files) - len(names)
    return f"{', '.join(names)}{f' and {more} more' if more else ''}"
