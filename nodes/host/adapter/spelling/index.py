"""Finds a module's name in a base's key map by the name that a file has for it."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from .....core.errors import UnsupportedAdapter
from .endings import KEYS_KEPT, modules_of
from .prefixes import flat_names, flat_names_of_underscored, flatten, split_encoder


class NameIndex:
    """A base's key map, indexed by every spelling of its names: without prefixes, and with dots and underscores
    alike."""

    def __init__(self, key_map: Mapping[str, Any]) -> None:
        self._key_map = key_map
        self._by_flat_name: dict[str, dict[Any, str]] = {}  # flat name -> target -> the first name of the map
        self.module_of = lru_cache(KEYS_KEPT)(self._module_of)
        for name, target in key_map.items():
            for flat in (*flat_names(name), *_without_encoder(name)):
                self._by_flat_name.setdefault(flat, {}).setdefault(target, name)

    def _module_of(self, key: str) -> tuple[str | None, str]:
        """(the module's name in the key map, its name in the file) for a key; (None, "") if the base has no such
        module. The longest name counts: diffusers' `norm1.linear` is not the ending `.linear` of a module `norm1`.

        UnsupportedAdapter if the name fits two modules.
        """
        return next(((own, name) for name in modules_of(key) if (own := self._find(name))), (None, ""))

    def _find(self, name: str) -> str | None:
        if name in self._key_map:
            return name  # a name that ComfyUI reads never gets another meaning
        return self._only(name, flat_names(name)) or self._only(name, flat_names_of_underscored(name))

    def _only(self, name: str, flat: Iterable[str]) -> str | None:
        readings = {target: own for spelled in flat for target, own in self._by_flat_name.get(spelled, {}).items()}
        if len(readings) > 1:
            first, second, *_ = readings.values()
            raise UnsupportedAdapter(
                f"Module {name}: expected the name of a single layer of the base, found that it can mean {first} or "
                f"{second}. Rename the file's modules to one of these."
            )
        return next(iter(readings.values()), None)


def _without_encoder(name: str) -> tuple[str, ...]:
    """A CLIP's name without the encoder's prefix: PEFT saves a single encoder as base_model.model.text_model..."""
    number, rest = split_encoder(name)
    return (flatten(rest),) if number and rest.startswith("text_model") else ()
