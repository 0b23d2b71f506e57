"""From the name that a file gives a module to its name in a base's key map."""

from collections.abc import Iterable, Mapping
from typing import Any

from .....core.errors import UnsupportedAdapter
from .endings import modules_of
from .prefixes import flat_names, flat_names_of_underscored, flatten, split_encoder


class NameIndex:
    """A base's key map under every spelling of its names: prefixes taken off, dots and underscores alike."""

    def __init__(self, key_map: Mapping[str, Any]) -> None:
        self._key_map = key_map
        self._by_flat_name: dict[str, dict[Any, str]] = {}  # flat name -> target -> the first name of the map
        self._known: dict[str, str | None] = {}
        for name, target in key_map.items():
            for flat in (*flat_names(name), *_without_encoder(name)):
                self._by_flat_name.setdefault(flat, {}).setdefault(target, name)

    def module_of(self, key: str) -> tuple[str | None, str]:
        """(the key map's name of the module that a key belongs to, the file's name of it); None where the base has no
        such module. The longest name counts: `norm1.linear` of diffusers is not the end `.linear` of a `norm1`.

        UnsupportedAdapter where two modules could be meant.
        """
        return next(((own, name) for name in modules_of(key) if (own := self._find(name))), (None, ""))

    def _find(self, name: str) -> str | None:
        if name in self._key_map:
            return name  # as ComfyUI reads it, never otherwise
        if name not in self._known:
            own = self._only(name, flat_names(name)) or self._only(name, flat_names_of_underscored(name))
            self._known[name] = own
        return self._known[name]

    def _only(self, name: str, flat: Iterable[str]) -> str | None:
        readings = {target: own for one in flat for target, own in self._by_flat_name.get(one, {}).items()}
        if len(readings) > 1:
            first, second, *_ = readings.values()
            raise UnsupportedAdapter(
                f"Module {name}: expected a name of one layer of the base, found that {first} and {second} are both "
                "called so. Rename the file's modules to one of the two."
            )
        return next(iter(readings.values()), None)


def _without_encoder(name: str) -> tuple[str, ...]:
    """A CLIP's name without the encoder's prefix: PEFT saves one encoder alone as base_model.model.text_model..."""
    number, rest = split_encoder(name)
    return (flatten(rest),) if number and rest.startswith("text_model") else ()
