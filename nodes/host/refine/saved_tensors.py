"""The tensors that a forward pass saves for its backward pass, where blocks write over them (Flux's add in place).

torch saves such a tensor itself. Once it is written over, its graph refers to itself through it, and unless a backward
pass runs to its end that cycle is never freed: it lies in C++, where Python's collector does not see it. The backward
pass cannot run to its end, because it refuses a tensor that was written over. So nothing is ever saved as torch would.
"""

import weakref
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary


@dataclass(frozen=True, eq=False)
class _Saved:
    """A tensor on the same memory, outside of the graph; version: how often that memory had been written to."""

    tensor: Tensor
    version: int

    def is_overwritten(self) -> bool:
        return _version(self.tensor) != self.version


@dataclass
class SavedTensors:
    """A context for a forward pass. copying: save copies, which nothing can write over; without it the same memory is
    saved, and `is_overwritten` tells after the forward pass whether that will do."""

    copying: bool
    _saved: "weakref.WeakSet[_Saved]" = field(default_factory=lambda: weakref.WeakSet[_Saved]())
    _copies: Any = field(default_factory=WeakTensorKeyDictionary)  # tensor -> (version, copy)

    def __post_init__(self) -> None:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._copy if self.copying else self._alias, _unpack)

    def __enter__(self) -> "SavedTensors":
        self._hooks.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._hooks.__exit__(kind, error, at)
        self._copies.clear()

    def is_overwritten(self) -> bool:
        """Whether a saved tensor was written over: a backward pass would then give wrong gradients."""
        return any(saved.is_overwritten() for saved in self._saved)

    def _alias(self, tensor: Tensor) -> Any:
        if _is_weight(tensor):
            return tensor
        saved = _Saved(tensor.detach(), _version(tensor))
        self._saved.add(saved)
        return saved

    def _copy(self, tensor: Tensor) -> Tensor:
        """One copy for all layers that save the same tensor, such as the positions that every block is told."""
        if _is_weight(tensor):
            return tensor
        version, copy = self._copies.get(tensor, (None, None))
        if copy is None or version != _version(tensor):
            copy = tensor.detach().clone()
            self._copies[tensor] = _version(tensor), copy
        return copy


def _unpack(saved: Any) -> Tensor:
    return saved.tensor if isinstance(saved, _Saved) else saved


def _is_weight(tensor: Tensor) -> bool:
    """Weights and factors, which no forward pass writes to. A packed weight is a kind of tensor of its own."""
    return isinstance(tensor, nn.Parameter) or type(tensor) is not Tensor or (tensor.is_leaf and tensor.requires_grad)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
