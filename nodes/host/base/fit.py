"""Which base files a LoRA fits: read from headers, once for all files with the same layers."""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import comfy.model_management
from blake3 import blake3
from torch import Tensor

from ....core.cache import SubspaceCache
from ....core.errors import LoraTransferError, UnsupportedAdapter
from ....core.files.shards import open_model_file, shard_paths
from ....core.version import VERSION
from ..adapter.adapter import Adapter
from ..adapter.group import EMBEDDING, NOT_IN_TEXT_ENCODER, OF_SECOND_EXPERT, OF_TEXT_ENCODER
from ..adapter.read import AdapterOnBase, read_adapter
from .file_hashes import state_mark
from .from_file import base_from_file, refuse_pickled
from .from_model import HostBase

# A LoRA fits a base if this share of its keys for the diffusion model names layers of the right shape. It is not 1,
# because trainers write keys that nothing reads. SDXL's pruned children lack more than a tenth of its layers.
_FITS = 0.95

_OF_NO_LAYER = (OF_TEXT_ENCODER, NOT_IN_TEXT_ENCODER, EMBEDDING, OF_SECOND_EXPERT)

_LARGEST_KEPT = 1 << 16  # values; larger tensors are factors, of which only the shape counts here


@dataclass(frozen=True)
class BaseFits:
    """The base files that a LoRA fits (name -> ComfyUI's family), those that it does not fit (name -> share of its keys
    that do), and those that cannot be read as a base (name -> reason)."""

    fitting: Mapping[str, str] = field(default_factory=dict[str, str])
    misfits: Mapping[str, float] = field(default_factory=dict[str, float])
    unreadable: Mapping[str, str] = field(default_factory=dict[str, str])


def find_fitting_bases(
    adapter: Adapter, bases: Sequence[str], path_of: Callable[[str], Path], cache: SubspaceCache | None
) -> BaseFits:
    """Read the headers of these bases and test the adapter on each kind of model among them."""
    fitting: dict[str, str] = {}
    misfits: dict[str, float] = {}
    unreadable: dict[str, str] = {}

    @functools.cache
    def tensors_without_values() -> Adapter:
        return _without_values(adapter)  # read only if the adapter was not tested on one of these models before

    by_structure: dict[str, tuple[str, float]] = {}
    for name in bases:
        comfy.model_management.throw_exception_if_processing_interrupted()
        base: HostBase | None = None
        try:
            path = path_of(name)
            if path != shard_paths(path)[0]:
                continue  # the first file of a model stands for all of them
            refuse_pickled(path, name)
            structure = _structure_of(path, cache)
            key = f"fit {VERSION} {structure} {adapter.fingerprint}"
            if structure not in by_structure and (known := _stored_fit(key, cache)) is not None:
                by_structure[structure] = known
            elif structure not in by_structure:
                base = base_from_file(path, name)
        except LoraTransferError as error:
            unreadable[name] = str(error)
            continue
        if base is not None:  # outside of `try`: an error of the adapter is not one of this base
            by_structure[structure] = base.family, _share_that_fits(tensors_without_values(), base)
            _store_fit(key, by_structure[structure], cache)
        family, share = by_structure[structure]
        if share >= _FITS:
            fitting[name] = family
        else:
            misfits[name] = share
    return BaseFits(fitting, misfits, unreadable)


def _structure_of(path: Path, cache: SubspaceCache | None) -> str:
    """A hash of the names and shapes of a model's tensors; stored for each state of its file."""
    marks = [state_mark(part) for part in shard_paths(path)]
    location = None if None in marks else f"structure of {' '.join(str(mark) for mark in marks)}"
    known = None if cache is None or location is None else cache.digest_at(location)
    if known is not None:
        return known
    digest = blake3()
    for key, header in sorted(open_model_file(path).tensors.items()):
        digest.update(f"{key} {header.shape}\n".encode(errors="surrogatepass"))
    if cache is not None and location is not None:
        cache.store_digest(location, digest.hexdigest())
    return digest.hexdigest()


def _stored_fit(key: str, cache: SubspaceCache | None) -> tuple[str, float] | None:
    """(the family of a base, the share of the adapter's keys that fit it), if it was tested before."""
    known = None if cache is None else cache.figures(key)
    return None if known is None else (known["family"], known["share"])


def _store_fit(key: str, fit: tuple[str, float], cache: SubspaceCache | None) -> None:
    if cache is not None:
        cache.store_figures(key, {"family": fit[0], "share": fit[1]})


def _share_that_fits(adapter: Adapter, base: HostBase) -> float:
    try:
        with _without_log_of_misfits():
            placed = read_adapter(adapter, base)
    except UnsupportedAdapter:
        return 0.0
    of_encoder = {name for name, layer in base.layers.items() if layer.text_encoder}
    fitting = _count_keys(placed, of_encoder)
    skipped = sum(len(skipped.keys) for skipped in placed.skipped if skipped.layer not in of_encoder)
    unread = sum(reason not in _OF_NO_LAYER for reason in placed.unread.values())
    total = fitting + skipped + unread
    return fitting / total if total else 0.0


@contextmanager
def _without_log_of_misfits() -> Iterator[None]:
    """Leaves out what ComfyUI logs for each module that does not fit a weight: here that is a result, not an error."""

    def is_kept(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("ERROR ")

    log = logging.getLogger()
    log.addFilter(is_kept)
    try:
        yield
    finally:
        log.removeFilter(is_kept)


def _count_keys(placed: AdapterOnBase, of_encoder: set[str]) -> int:
    """The keys that were read onto the diffusion model; onto the text encoder, if the adapter changes nothing else."""
    of_model = sum(len(module.keys) for module in placed.modules if module.layer not in of_encoder)
    of_model += sum(len(vector.keys) for vector in placed.vectors)
    return of_model or sum(len(module.keys) for module in placed.modules)


def _without_values(adapter: Adapter) -> Adapter:
    """The adapter with the shapes of its large tensors alone, so that it can be tested on many bases quickly."""
    tensors = {key: _light(tensor) for key, tensor in adapter.state_dict().items()}
    return replace(adapter, path=None, state=None, changes=None, tensors=tensors)


def _light(tensor: Tensor) -> Tensor:
    return tensor.to("meta") if tensor.numel() > _LARGEST_KEPT else tensor
