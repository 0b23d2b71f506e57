"""Blocks that keep their inputs alone and are computed again in the backward pass, for a training in less memory.

torch's own checkpoint does not do: Flux's blocks add to their inputs in place. It hands a block the changed inputs the
second time, and does not notice that what it kept in between is written over; the gradients are then wrong.
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
    with replace_forwards({block: functools.partial(_call, block.forward) for block in blocks}):
        yield


def _call(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled() or any(_hides_gradients(one) for one in (*args, *kwargs.values())):
        return forward(*args, **kwargs)
    tensors: list[Tensor] = []
    form = _take_out(list(args), tensors), {key: _take_out(one, tensors) for key, one in kwargs.items()}

    def again(given: Sequence[Tensor]) -> Any:
        own_args, own_kwargs = _put_back(form, given)
        return forward(*own_args, **own_kwargs)

    wanting = torch.zeros((), requires_grad=True)  # for a block whose inputs want no gradients, but whose factors do
    return _Recomputed.apply(again, wanting, *tensors)


class _Recomputed(torch.autograd.Function):
    """again: the block as a function of the tensors among its inputs, which it may write over."""

    @staticmethod
    def forward(ctx: Any, again: Callable[..., Any], wanting: Tensor, *tensors: Tensor) -> Any:
        ctx.again = again
        ctx.save_for_backward(*tensors)
        return again([one.clone() for one in tensors])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        wants = ctx.needs_input_grad[2:]
        leaves = [one.detach().requires_grad_(want) for one, want in zip(ctx.saved_tensors, wants, strict=True)]
        with torch.enable_grad(), SavedTensors(copying=True):
            answer = ctx.again([one.clone() for one in leaves])
        answers = answer if isinstance(answer, (tuple, list)) else (answer,)
        told = [(one, by) for one, by in zip(answers, gradients, strict=True) if _has_gradient(one) and by is not None]
        if told:
            torch.autograd.backward([one for one, _ in told], [by for _, by in told])
        return None, None, *(one.grad for one in leaves)


def _take_out(value: Any, tensors: list[Tensor]) -> Any:
    """The value with numbered places for its tensors; what is in no list, tuple or dict stays as it is."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return _Place(len(tensors) - 1)
    if type(value) in (list, tuple):
        return type(value)(_take_out(one, tensors) for one in value)
    if type(value) is dict and any(_has_gradient(one) for one in _within(value)):
        return {key: _take_out(one, tensors) for key, one in value.items()}
    return value


def _put_back(form: Any, tensors: Sequence[Tensor]) -> Any:
    if isinstance(form, _Place):
        return tensors[form]
    if type(form) in (list, tuple):
        return type(form)(_put_back(one, tensors) for one in form)
    if type(form) is dict:
        return {key: _put_back(one, tensors) for key, one in form.items()}
    return form


class _Place(int):
    """The number of a tensor."""


def _within(value: Any) -> Iterator[Any]:
    """Everything in nested lists, tuples and dicts."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _within(one)
    else:
        yield value


def _hides_gradients(value: Any) -> bool:
    """Whether an object that is no container holds tensors that want gradients: they would be lost."""
    others = (one for one in _within(value) if not isinstance(one, Tensor) and hasattr(one, "__dict__"))
    return any(_has_gradient(held) for one in others for held in vars(one).values())


def _has_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad
