"""Turns an adapter into the tensors of a file, in a spelling and a precision."""

from collections.abc import Mapping
from pathlib import PurePosixPath

import torch
from torch import Tensor

from ....core.errors import InvalidSetting
from ....core.linalg import all_finite
from .adapter import Adapter, LayerChanges
from .read import read_adapter
from .write import is_written

_LARGE = 4  # times; smaller growth needs no note: prolora doubles the rank, and rank 1 or 2 may be stored as 4

SAVED_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


_LONGEST_NAME = 80  # characters of a name in a file name, which may have 255 bytes
_MODEL_ENDINGS = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin")


def fill_placeholders(prefix: str, adapter: Adapter) -> str:
    """A file name with {lora} and {target} replaced by the names of the adapter and of its target."""
    target = "its_own_base" if adapter.fits is None else adapter.fits.name
    names = {"{lora}": adapter.origin or adapter.name, "{target}": target}
    for placeholder, name in names.items():
        prefix = prefix.replace(placeholder, _name_for_file(name))
    return prefix


def _name_for_file(name: str) -> str:
    """A name without folders and ending, in letters that every file system takes and ComfyUI's %year% does not mean."""
    name = PurePosixPath(name.replace("\\", "/")).name
    for ending in _MODEL_ENDINGS:
        name = name[: -len(ending)] if name.lower().endswith(ending) else name
    words = "".join(letter if letter.isalnum() or letter in "-_.+" else " " for letter in name).split()
    return "_".join(words)[:_LONGEST_NAME].strip("._") or "unnamed"


def respell(adapter: Adapter, spelling: str) -> dict[str, Tensor]:
    """The adapter's tensors in a spelling. InvalidSetting for any spelling but "comfy" if the adapter was never
    transferred, because then no base is known that names its layers."""
    changes = adapter.changes
    if changes is None and adapter.fits is not None:
        placed = read_adapter(adapter, adapter.fits)
        changes = LayerChanges(adapter.fits, placed.deltas, placed.scales, placed.vectors, placed.widened())
    if changes is not None:
        return respell_changes(changes, spelling, adapter.name)
    if spelling != "comfy":
        raise InvalidSetting(
            f"Saving {adapter.name} as {spelling}: expected a LoRA from Project LoRA, because its target gives the "
            "layers their names, found a LoRA as it was loaded. Transfer it first, or choose comfy to save it as it is."
        )
    return adapter.state_dict()


def respell_changes(changes: LayerChanges, spelling: str, name: str) -> dict[str, Tensor]:
    """The tensors of changes in a spelling; InvalidSetting if it can hold none of them."""
    if tensors := changes.tensors(spelling):
        return tensors
    raise InvalidSetting(
        f"Saving {name} as {spelling}: expected changes of weights, found only changes of biases and norms, which this "
        "spelling cannot hold. Choose comfy or kohya."
    )


def note_left_out(adapter: Adapter, spelling: str) -> tuple[str, ...]:
    """A note if the adapter has changes that a file in this spelling cannot hold."""
    keys = [key for key in adapter.state_dict() if not is_written(key, spelling) and not key.endswith(".alpha")]
    if not keys:
        return ()
    return (
        f"Not in the file: {len(keys)} of the LoRA's keys (first: {keys[0]}). {spelling} refuses a file with changes "
        "of biases, norms or shapes; comfy and kohya keep them.",
    )


def note_growth(adapter: Adapter, changes: LayerChanges) -> tuple[str, ...]:
    """A note if a transferred adapter is much larger than its file. LoHa and LoKr store in a few numbers what takes a
    LoRA of a high rank."""
    before, after = sum(tensor.numel() for tensor in adapter.state_dict().values()), changes.count_values()
    if after < _LARGE * before:
        return ()
    return (
        f"this LoRA is {after / before:.0f} times as large as its file ({after * 2 / 1e6:,.0f} MB in float16): set "
        "out_rank to cut, with a smaller dense_rank or dense_energy, to make it smaller",
    )


def cast_for_file(tensors: Mapping[str, Tensor], adapter: Adapter, dtype: str) -> dict[str, Tensor]:
    """An adapter's tensors in the precision of the file; InvalidSetting if their values are too large for it."""
    cast = {key: _cast(tensor, SAVED_DTYPES[dtype]) for key, tensor in tensors.items()}
    for key, tensor in cast.items():
        if not all_finite(tensor):
            raise InvalidSetting(
                f"Saving {adapter.name} as {dtype}: {key} has values that are too large for {dtype} (largest: "
                f"{float(tensors[key].abs().max()):.3g}). Nothing was written: choose bfloat16 or float32."
            )
    return cast


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of the tensor in the precision; shapes (reshape_weight) stay integers. It must be a copy, because an
    adapter's tensors may share memory."""
    wanted = dtype if tensor.is_floating_point() else tensor.dtype
    return tensor.to(wanted, copy=True, memory_format=torch.contiguous_format)
