"""Makes blocks save only their inputs and compute everything again in the backward pass, which needs less memory.

torch's own checkpoint will not do, because Flux's blocks add to their inputs in place. The second time it would pass a
block the changed inputs, and it does not notice that saved tensors were overwritten: the gradients would be wrong.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .bypass import replace_forwards
from .saved_tensors import SavedTensors


@contextmanager
def recompute_blocks(blocks: Sequence[Any]) -> Iterator[None]:
    """A context in which these blocks are computed again in the backward pass."""
    with replace_forwards({block: functools.partial(_call, block.forward) for block in blocks}):
        yield


def _call(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled() or any(_hides_gradients(value) for value in (*args, *kwargs.values())):
        return forward(*args, **kwargs)
    tensors: list[Tensor] = []
    form = _take_out(list(args), tensors), {key: _take_out(value, tensors) for key, value in kwargs.items()}

    def run_block(inputs: Sequence[Tensor]) -> Any:
        own_args, own_kwargs = _put_back(form, inputs)
        return forward(*own_args, **own_kwargs)

    anchor = torch.zeros((), requires_grad=True)  # so that there is a backward pass even if only the factors need one
    return _Recompute.apply(run_block, anchor, *tensors)


class _Recompute(torch.autograd.Function):
    """run_block: the block as a function of the tensors among its inputs, which it may overwrite."""

    @staticmethod
    def forward(ctx: Any, run_block: Callable[..., Any], anchor: Tensor, *tensors: Tensor) -> Any:
        ctx.run_block = run_block
        ctx.save_for_backward(*tensors)
        return run_block([tensor.clone() for tensor in tensors])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        needed = ctx.needs_input_grad[2:]
        leaves = [tensor.detach().requires_grad_(need) for tensor, need in zip(ctx.saved_tensors, needed, strict=True)]
        with torch.enable_grad(), SavedTensors(copying=True):
            output = ctx.run_block([leaf.clone() for leaf in leaves])
        outputs = output if isinstance(output, (tuple, list)) else (output,)
        pairs = zip(outputs, gradients, strict=True)
        known = [(tensor, gradient) for tensor, gradient in pairs if _has_gradient(tensor) and gradient is not None]
        if known:
            torch.autograd.backward([tensor for tensor, _ in known], [gradient for _, gradient in known])
        return None, None, *(leaf.grad for leaf in leaves)


def _take_out(value: Any, tensors: list[Tensor]) -> Any:
    """The value with its tensors moved to `tensors` and replaced by their numbers. Looks into lists and tuples, and
    into dicts that hold gradients."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return _TensorNumber(len(tensors) - 1)
    if type(value) in (list, tuple):
        return type(value)(_take_out(item, tensors) for item in value)
    if type(value) is dict and any(_has_gradient(item) for item in _within(value)):
        return {key: _take_out(item, tensors) for key, item in value.items()}
    return value


def _put_back(form: Any, tensors: Sequence[Tensor]) -> Any:
    if isinstance(form, _TensorNumber):
        return tensors[form]
    if type(form) in (list, tuple):
        return type(form)(_put_back(item, tensors) for item in form)
    if type(form) is dict:
        return {key: _put_back(item, tensors) for key, item in form.items()}
    return form


class _TensorNumber(int):
    """The index of a tensor in the list of tensors."""


def _within(value: Any) -> Iterator[Any]:
    """Everything in nested lists, tuples and dicts."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _within(item)
    else:
        yield value


def _hides_gradients(value: Any) -> bool:
    """Whether an object that is not a container holds tensors with gradients, which would be lost."""
    objects = (item for item in _within(value) if not isinstance(item, Tensor) and hasattr(item, "__dict__"))
    return any(_has_gradient(attribute) for item in objects for attribute in vars(item).values())


def _has_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad
