"""Doubts whether an adapter belongs to the chosen source: what its file says, beside what the user chose."""

from .adapter.adapter import Adapter
from .adapter.base_clues import BaseClues, NameClue, read_base_clues
from .base.file_hashes import compute_sha256, known_sha256, legacy_hash
from .base.file_names import ModelName
from .base.from_model import HostBase
from .settings import subspace_cache


def doubt_source(adapter: Adapter, source: HostBase, target: HostBase) -> tuple[str, ...]:
    """Sentences on why the adapter may not have been trained on the source; empty if its file says nothing else."""
    clues = read_base_clues(adapter.metadata)
    if clues.families and source.family not in clues.families:
        return (
            f"the LoRA's file says that it was trained on {clues.family}, you chose {source.name} ({source.family}) as "
            "the source: choose the base that it was trained on",
        )
    names = telling_names(clues)
    if not names or is_named(names, source) or _has_hash(source, clues):
        return ()
    said = f"the LoRA's file says that it was trained on {names[0].shown()}"
    if is_named(names, target):
        return (f"{said}, which you chose as the target: are source and target swapped?",)
    another = "if that is another model, choose the one that it was trained on as the source"
    return (f"{said}, you chose {source.name}: {another}",)


def telling_names(clues: BaseClues) -> tuple[NameClue, ...]:
    """The names that mean the base and that few models have."""
    return tuple(clue for clue in clues.names if clue.sure and not ModelName.of(clue.name).is_generic)


def is_named(names: tuple[NameClue, ...], base: HostBase) -> bool:
    """Whether one of the names stands for this base."""
    return any(ModelName.of(clue.name).core == ModelName.of(base.name).core for clue in names)


def _has_hash(base: HostBase, clues: BaseClues) -> bool:
    """Whether the base's file has the hash that the adapter's file names. The whole file is read only if its old hash,
    which many fine-tunes share, does not decide."""
    path = base.path
    if path is None or clues.legacy is None or legacy_hash(path) != clues.legacy:
        return False
    cache = subspace_cache()
    return clues.sha256 is None or (known_sha256(path, cache) or compute_sha256(path, cache)).startswith(clues.sha256)
