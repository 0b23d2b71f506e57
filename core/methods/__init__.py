"""Holds the transfer methods, one file each. To add a method, add its file and its name in METHODS."""

from collections.abc import Callable, Mapping

from ..errors import InvalidSetting
from .copy import COPY
from .lora_x import LORA_X
from .method import LayerPairBases, Method, Projected
from .prolora import PROLORA
from .prolora_full import PROLORA_FULL
from .restore import RESTORE
from .restore_both import RESTORE_BOTH
from .rotate import ROTATE

METHODS: tuple[Method, ...] = (COPY, LORA_X, PROLORA, PROLORA_FULL, ROTATE, RESTORE, RESTORE_BOTH)
DEFAULT = RESTORE_BOTH  # best on related bases in benchmarks/quality
# The default for LoRAs that were trained inside the source's own singular subspaces, by how (refine/parameterisation).
DEFAULT_FOR_LORA_X: Mapping[str, Method] = {"inside": RESTORE_BOTH, "diagonal": RESTORE_BOTH}


def method_named(name: str) -> Method:
    """The method of this name. InvalidSetting lists the existing methods if there is none."""
    for method in METHODS:
        if method.name == name:
            return method
    raise InvalidSetting(f"Method: expected one of {', '.join(method.name for method in METHODS)}, found {name!r}.")


def list_methods(wanted: Callable[[Method], bool], last: str = "and") -> str:
    """The names of the methods for which `wanted` is true, as in "copy, restore and restore_both"."""
    *names, final = [method.name for method in METHODS if wanted(method)]
    return f"{', '.join(names)} {last} {final}" if names else final


__all__ = [
    "DEFAULT",
    "DEFAULT_FOR_LORA_X",
    "METHODS",
    "LayerPairBases",
    "Method",
    "Projected",
    "list_methods",
    "method_named",
]
