"""An adapter as the tensors of a file: spelling and precision."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ....core.errors import InvalidSetting
from .adapter import Adapter, LayerChanges
from .read import read_adapter
from .write import is_written

_LARGE = 4  # prolora doubles the rank, and a rank of one or two may be stored as four: that is nothing to warn of

SAVED_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def respell(adapter: Adapter, spelling: str) -> dict[str, Tensor]:
    """The adapter's tensors in a spelling. An adapter that was never transferred has no base to name its layers by: it
    stays as it is, and any spelling but "comfy" is refused."""
    changes = adapter.changes
    if changes is None and adapter.fits is not None:
        placed = read_adapter(adapter, adapter.fits)
        changes = LayerChanges(adapter.fits, placed.deltas, placed.scales, placed.vectors, placed.widened())
    if changes is not None:
        if tensors := changes.tensors(spelling):
            return tensors
        raise InvalidSetting(
            f"Saving {adapter.name} as {spelling}: expected changes of weights, found only changes of biases and "
            "norms, which this spelling cannot hold. Choose comfy or kohya."
        )
    if spelling != "comfy":
        raise InvalidSetting(
            f"Saving {adapter.name} as {spelling}: expected an adapter from Project LoRA, whose target names the "
            "layers; found one as it was loaded. Project it first, or choose comfy to save it unchanged."
        )
    return adapter.state_dict()


def note_left_out(adapter: Adapter, spelling: str) -> tuple[str, ...]:
    """A note on what a file in this spelling cannot hold, where the adapter has such changes."""
    keys = [key for key in adapter.state_dict() if not is_written(key, spelling) and not key.endswith(".alpha")]
    if not keys:
        return ()
    return (
        f"Not in the file: {len(keys)} of the LoRA's keys (first: {keys[0]}). {spelling} refuses a file with changes "
        "of biases, norms or shapes; comfy and kohya keep them.",
    )


def note_growth(adapter: Adapter, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """A note where a carried adapter is much larger than its file: LoHa and LoKr say in a few numbers what takes a LoRA
    of a high rank."""
    before, after = (sum(one.numel() for one in held.values()) for held in (adapter.state_dict(), tensors))
    if after < _LARGE * before:
        return ()
    return (
        f"this LoRA is {after / before:.0f} times as large as its file ({after * 2 / 1e6:,.0f} MB in float16): set "
        "out_rank to cut, with a smaller dense_rank or dense_energy, to make it smaller",
    )


def cast_for_file(tensors: Mapping[str, Tensor], adapter: Adapter, dtype: str) -> dict[str, Tensor]:
    """An adapter's tensors in a precision for saving; InvalidSetting where it cannot hold them."""
    cast = {key: _cast(tensor, SAVED_DTYPES[dtype]) for key, tensor in tensors.items()}
    for key, tensor in cast.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidSetting(
                f"Saving {adapter.name} as {dtype}: {key} holds values beyond what {dtype} can (largest "
                f"{float(tensors[key].abs().max()):.3g}). Nothing was written: choose bfloat16 or float32."
            )
    return cast


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers in the precision, in memory of their own, for tensors of an adapter may share it; shapes (reshape_weight)
    stay whole numbers."""
    wanted = dtype if tensor.is_floating_point() else tensor.dtype
    return tensor.to(wanted, copy=True, memory_format=torch.contiguous_format)
