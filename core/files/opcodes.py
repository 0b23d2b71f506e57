"""Runs the few pickle opcodes that torch.save writes; none of them runs code from the file.

Time and memory are proportional to the bytes that were read: no opcode allocates memory for a size that it only claims.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, cast

_MOST_STEPS = 500_000  # torch.save writes about 25 for a tensor
_LARGEST_KEY = 1 << 63


@dataclass(frozen=True)
class Call:
    """A function that a pickle may call."""

    function: Callable[..., Any]


def run_pickle(stream: IO[bytes], known: Mapping[str, Any], find: Callable[[Any], Any]) -> Any:
    """Build the value of one pickle, and leave the stream at its end.

    known: the only globals that a pickle may use, by "module name". find: returns the object of a persistent id.
    ValueError says what does not belong in a file of tensors.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if number > _MOST_STEPS:
            raise ValueError(f"it has more than {_MOST_STEPS:,} steps")
        if opcode.name == "STOP":
            break
        try:
            _step(opcode.name, argument, stack, memo, known, find)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"its step {opcode.name} does not belong in a file of tensors") from error
    return stack.pop() if stack else None


def _step(
    name: str,
    argument: Any,
    stack: list[Any],
    memo: dict[int, Any],
    known: Mapping[str, Any],
    find: Callable[[Any], Any],
) -> None:
    if name in _PUSH:
        stack.append(argument)
    elif name in _REMEMBER:
        memo[len(memo) if argument is None else int(argument)] = stack[-1]
    elif name in _RECALL:
        stack.append(memo[int(argument)])
    elif name in ("GLOBAL", "STACK_GLOBAL"):
        stack.append(_global(argument if name == "GLOBAL" else " ".join(_last(stack, 2)), known))
    elif name == "BINPERSID":
        stack.append(find(stack.pop()))
    else:
        _STEPS[name](stack)


def _global(name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise ValueError(f"it uses {name[:80]}, which could run code")
    return known[name]


_MARK = object()


def _since_mark(stack: list[Any]) -> list[Any]:
    """Pop the values above the last mark, and the mark."""
    above: list[Any] = []
    while (value := stack.pop()) is not _MARK:
        above.append(value)
    return above[::-1]


def _last(stack: list[Any], count: int) -> list[Any]:
    return [stack.pop() for _ in range(count)][::-1]


def _set_items(stack: list[Any], items: list[Any]) -> None:
    """Set items of a table. Keys must be text or small numbers: hashing nested tuples that share parts takes
    forever."""
    table = stack[-1]
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(table, dict) or not (isinstance(key, str) or (type(key) is int and abs(key) < _LARGEST_KEY)):
            raise TypeError
        table[key] = value


def _append(stack: list[Any], items: list[Any]) -> None:
    target: object = stack[-1]
    if not isinstance(target, list):
        raise TypeError
    cast("list[Any]", target).extend(items)


def _call(stack: list[Any]) -> None:
    function, arguments = _last(stack, 2)
    if not isinstance(function, Call):
        raise TypeError
    stack.append(function.function(*arguments))


_NUMBERS = ("NONE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = (
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
)
_PUSH = frozenset((*_NUMBERS, *_TEXTS))
_REMEMBER = frozenset(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
_RECALL = frozenset(("GET", "BINGET", "LONG_BINGET"))

_STEPS: dict[str, Callable[[list[Any]], object]] = {
    "PROTO": lambda _: None,
    "FRAME": lambda _: None,
    "MARK": lambda stack: stack.append(_MARK),
    "POP": lambda stack: stack.pop(),
    "NEWTRUE": lambda stack: stack.append(True),
    "NEWFALSE": lambda stack: stack.append(False),
    "EMPTY_DICT": lambda stack: stack.append({}),
    "EMPTY_LIST": lambda stack: stack.append([]),
    "EMPTY_TUPLE": lambda stack: stack.append(()),
    "TUPLE1": lambda stack: stack.append(tuple(_last(stack, 1))),
    "TUPLE2": lambda stack: stack.append(tuple(_last(stack, 2))),
    "TUPLE3": lambda stack: stack.append(tuple(_last(stack, 3))),
    "TUPLE": lambda stack: stack.append(tuple(_since_mark(stack))),
    "LIST": lambda stack: stack.append(_since_mark(stack)),
    "SETITEM": lambda stack: _set_items(stack, _last(stack, 2)),
    "SETITEMS": lambda stack: _set_items(stack, _since_mark(stack)),
    "APPEND": lambda stack: _append(stack, _last(stack, 1)),
    "APPENDS": lambda stack: _append(stack, _since_mark(stack)),
    "REDUCE": _call,
    "BUILD": lambda stack: stack.pop(),  # drops the attributes of a table (a state dict's _metadata)
}
