"""The user's settings: those under LoRA Transfer on ComfyUI's settings page (web/settings.js)."""

import json
import logging
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import folder_paths

from ...core.cache import PRECISIONS, SubspaceCache

PRECISION, LIMIT = "LoraTransfer.Cache.Precision", "LoraTransfer.Cache.LimitGB"
_OFF = "off"
DEFAULTS: dict[str, Any] = {PRECISION: "float32", LIMIT: 20}


_MOST = 1e6  # gigabytes; more than any disk holds, so it serves as infinity


def subspace_cache() -> SubspaceCache | None:
    """The cache of decomposed bases in ComfyUI's user folder; None if the user has switched it off, or if its folder
    cannot be used, which the log says once."""
    chosen = _read_settings()
    location = _locate(chosen, "subspaces")
    if location is None:
        return None
    folder, limit = location
    try:
        return SubspaceCache(folder, chosen[PRECISION], limit)
    except OSError as error:
        _warn(f"no cache of decomposed bases in {folder} ({error}): bases are decomposed again in every run")
        return None


def cache_folder(name: str) -> tuple[Path, int] | None:
    """The folder of one of the pack's caches and its limit in bytes; None if the user has switched caches off."""
    return _locate(_read_settings(), name)


def _locate(chosen: Mapping[str, Any], name: str) -> tuple[Path, int] | None:
    if chosen[PRECISION] == _OFF:
        return None
    return Path(folder_paths.get_user_directory()) / "lora_transfer" / name, int(chosen[LIMIT] * 1e9)


def _read_settings() -> dict[str, Any]:
    """The pack's settings as ComfyUI's page saved them, with defaults for those that are missing or unusable. Nodes run
    outside of any request, so the settings are read from the file of the default user."""
    path = Path(folder_paths.get_user_directory()) / "default" / "comfy.settings.json"
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # ComfyUI itself then goes on without settings
        written = {}
    chosen = dict(DEFAULTS)
    for name, usable in _USABLE.items():
        if not isinstance(written, dict) or name not in written:
            continue
        if usable(written[name]):
            chosen[name] = written[name]
        else:
            _warn(f"setting {name}: expected {_EXPECTED[name]}, found {written[name]!r:.80}; using {DEFAULTS[name]}")
    chosen[LIMIT] = min(chosen[LIMIT], _MOST)
    return chosen


def _is_precision(value: Any) -> bool:
    return isinstance(value, str) and value in (*PRECISIONS, _OFF)


def _is_limit(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0  # NaN is not


_USABLE: dict[str, Callable[[Any], bool]] = {PRECISION: _is_precision, LIMIT: _is_limit}
_EXPECTED = {PRECISION: f"one of {', '.join((*PRECISIONS, _OFF))}", LIMIT: "a number of gigabytes above 0"}


@cache
def _warn(message: str) -> None:
    """Write a warning to the log, once."""
    logging.warning("LoRA Transfer: %s", message)
