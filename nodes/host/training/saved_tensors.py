"""Saves tensors for the backward pass, for models whose blocks overwrite them (Flux's blocks add in place).

torch saves the tensor object itself. If that is overwritten, the graph refers to itself through it. Such a cycle is
only freed by a backward pass that runs to its end: it lies in C++, where Python's collector does not see it. But the
backward pass stops at an overwritten tensor. So tensors are never saved in torch's own way here.
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
    """A tensor on the same memory, outside of the graph; version: how often the memory had been written to."""

    tensor: Tensor
    version: int

    def is_overwritten(self) -> bool:
        return _version(self.tensor) != self.version


@dataclass
class SavedTensors:
    """A context for a forward pass. copying: save copies, which nothing can overwrite. Without it the memory itself is
    saved, and `is_overwritten` says after the forward pass whether that was safe."""

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
        """Whether a saved tensor was overwritten: a backward pass would then give wrong gradients."""
        return any(saved.is_overwritten() for saved in self._saved)

    def _alias(self, tensor: Tensor) -> Any:
        if _is_weight(tensor):
            return tensor
        saved = _Saved(tensor.detach(), _version(tensor))
        self._saved.add(saved)
        return saved

    def _copy(self, tensor: Tensor) -> Tensor:
        """One copy for all layers that save the same tensor, such as the positions that every block gets."""
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
    """Whether a tensor is a weight or a factor, which no forward pass overwrites. A packed weight has a tensor type of
    its own."""
    return isinstance(tensor, nn.Parameter) or type(tensor) is not Tensor or (tensor.is_leaf and tensor.requires_grad)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
