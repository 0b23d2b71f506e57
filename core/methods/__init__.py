"""Every transfer method, one file each. A new one is a new file and a line in METHODS."""

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


def method_named(name: str) -> Method:
    """The method of that name; InvalidSetting names those that exist."""
    for method in METHODS:
        if method.name == name:
            return method
    raise InvalidSetting(f"Method {name!r} does not exist. Known: {', '.join(method.name for method in METHODS)}.")


__all__ = ["METHODS", "LayerPairBases", "Method", "Projected", "method_named"]
