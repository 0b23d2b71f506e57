"""The user's settings of the pack: what stands under LoRA Transfer on ComfyUI's settings page (web/settings.js)."""

import json
from pathlib import Path
from typing import Any

import folder_paths

from ...core.cache import PRECISIONS, SubspaceCache

PRECISION, LIMIT = "LoraTransfer.Cache.Precision", "LoraTransfer.Cache.LimitGB"
DEFAULTS: dict[str, Any] = {PRECISION: "float32", LIMIT: 20}


def subspace_cache() -> SubspaceCache | None:
    """The cache of decomposed bases in ComfyUI's user folder, or None where the user has switched it off."""
    chosen = {**DEFAULTS, **_written()}
    if chosen[PRECISION] not in PRECISIONS:
        return None
    folder = Path(folder_paths.get_user_directory()) / "lora_transfer" / "subspaces"
    return SubspaceCache(folder, chosen[PRECISION], int(float(chosen[LIMIT]) * 1e9))


def _written() -> dict[str, Any]:
    """ComfyUI's settings as its page saved them; nodes run outside of any request, so they are read from the file."""
    path = Path(folder_paths.get_user_directory()) / "default" / "comfy.settings.json"
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # ComfyUI itself goes on without settings then
        return {}
    return {key: settings[key] for key in DEFAULTS if key in settings}
