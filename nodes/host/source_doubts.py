"""Doubts whether an adapter belongs to the chosen source: what its file says, beside what the user chose."""

from .adapter.adapter import Adapter
from .adapter.stated_base import StatedBase, architecture_of_family, stated_base
from .base.file_hashes import legacy_hash
from .base.from_model import HostBase


def doubt_source(adapter: Adapter, source: HostBase, target: HostBase) -> tuple[str, ...]:
    """Sentences on why the adapter may not have been trained on the source; empty if its file says nothing else."""
    stated = stated_base(adapter.metadata)
    architecture = architecture_of_family(source.family)
    if stated.architecture is not None and architecture not in (None, stated.architecture):
        return (
            f"the LoRA's file says that it was trained on a model of {stated.architecture}, you chose {source.name} "
            f"({architecture}) as the source: choose the base that it was trained on",
        )
    if not stated.names or stated.names_file(source.name) or _has_hash(source, stated):
        return ()
    if stated.names_file(target.name):
        return (
            f"the LoRA's file says that it was trained on {stated.names[0]}, which you chose as the target: are source "
            "and target swapped?",
        )
    return (
        f"the LoRA's file says that it was trained on {stated.names[0]}, you chose {source.name}: if that is another "
        "model, choose the one that it was trained on as the source",
    )


def _has_hash(base: HostBase, stated: StatedBase) -> bool:
    """Whether the base's file has a hash that the adapter's file names."""
    if base.path is None or not any(len(digest) == 8 for digest in stated.hashes):
        return False
    return legacy_hash(base.path) in stated.hashes
