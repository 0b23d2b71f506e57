"""The user's settings of the pack: what stands under LoRA Transfer on ComfyUI's settings page (web/settings.js)."""

import json
import logging
import sqlite3
from pathlib import Path
from typing import Any

import folder_paths

from ...core.cache import PRECISIONS, SubspaceCache

PRECISION, LIMIT = "LoraTransfer.Cache.Precision", "LoraTransfer.Cache.LimitGB"
DEFAULTS: dict[str, Any] = {PRECISION: "float32", LIMIT: 20}


def subspace_cache() -> SubspaceCache | None:
    """The cache of decomposed bases in ComfyUI's user folder; None where the user has switched it off, or where its
    folder or index cannot be opened (a read-only or full disk, a lock that another process holds)."""
    place = cache_place("subspaces")
    if place is None:
        return None
    folder, limit = place
    try:
        return SubspaceCache(folder, _written()[PRECISION], limit)
    except (OSError, sqlite3.Error) as error:
        logging.warning(
            "LoRA Transfer: no cache of decomposed bases in %s (%s); bases are decomposed anew", folder, error
        )
        return None


def cache_place(name: str) -> tuple[Path, int] | None:
    """A folder of the pack's caches and its limit in bytes; None where the user has switched them off."""
    chosen = _written()
    if chosen[PRECISION] not in PRECISIONS:
        return None
    return Path(folder_paths.get_user_directory()) / "lora_transfer" / name, int(chosen[LIMIT] * 1e9)


def _written() -> dict[str, Any]:
    """ComfyUI's settings as its page saved them, the defaults where there are none or they are not to be used. Nodes
    run outside of any request, so they are read from the file, of the default user."""
    path = Path(folder_paths.get_user_directory()) / "default" / "comfy.settings.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # ComfyUI itself goes on without settings then
        settings = {}
    chosen = {
        **DEFAULTS,
        **({key: settings[key] for key in DEFAULTS if key in settings} if isinstance(settings, dict) else {}),
    }
    limit = chosen[LIMIT]
    usable = isinstance(limit, (int, float)) and limit > 0
    return chosen if usable else {**chosen, LIMIT: DEFAULTS[LIMIT]}
