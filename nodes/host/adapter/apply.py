"""An adapter on a loaded model: ComfyUI's own patches of every kind, behind our reading of the file's spelling."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from comfy.weight_adapter import LoRAAdapter

from ....core.errors import ShapeMismatch, UnsupportedAdapter
from ..base.from_model import HostBase, base_from_clip, base_from_model, join_encoder
from ..base.names import layer_name, parse_target
from .adapter import Adapter
from .group import MAGNITUDE, NO_SUCH_LAYER, OF_TEXT_ENCODER, Group, explain_no_match, group_by_module
from .kinds import delta_of_patch
from .module import read_module
from .peft import PeftSettings, peft_settings
from .peft_dora import add_norms
from .scale import apply_scale, check_dora, check_norms


@dataclass(frozen=True)
class ApplyResult:
    """The patched model and text encoder, how many of the file's keys are in them, and the others with the reason."""

    model: Any
    clip: Any | None
    keys: int = 0
    not_applied: Mapping[str, str] = field(default_factory=dict[str, str])

    def summary(self) -> str:
        """What was applied in one line, for a person."""
        if not self.keys:
            return "strength 0: nothing changed"
        if not self.not_applied:
            return f"all {self.keys} keys applied"
        reason, count = Counter(self.not_applied.values()).most_common(1)[0]
        left = len(self.not_applied)
        return f"{self.keys} of {self.keys + left} keys applied; not applied: {left} ({count}: {reason})"


@dataclass(frozen=True)
class _Patches:
    """ComfyUI's patches of one module, and the file's keys that are in them."""

    patches: Mapping[Any, Any]
    keys: tuple[str, ...]


def apply(adapter: Adapter, model: Any, clip: Any | None, strength_model: float, strength_clip: float) -> ApplyResult:
    """The adapter on a model and its text encoder. For spellings that ComfyUI reads this is what its LoRA loader does;
    the others are brought into its spelling first.

    UnsupportedAdapter where nothing of the adapter fits the model.
    """
    if strength_model == 0 and strength_clip == 0:
        return ApplyResult(model, clip)  # as ComfyUI's own loader does: the very same model, bit by bit
    base = base_from_model(model) if clip is None else join_encoder(base_from_model(model), base_from_clip(clip))
    groups, left = group_by_module(adapter.state_dict(), base)
    if not groups:
        raise UnsupportedAdapter(explain_no_match(adapter.name, base, left))
    settings = peft_settings(adapter.metadata, adapter.name)
    modules: list[_Patches] = []
    # In the order of the map, as the host: of two names for one layer it takes the last.
    for spelled in (name for name in base.key_map if name in groups):
        found, reasons = _patches_of(spelled, groups[spelled], settings, base)
        modules.append(found)
        left = {**left, **reasons}
    patches = {name: patch for module in modules for name, patch in module.patches.items()}
    patched, patched_clip = model.clone(), None if clip is None else clip.clone()
    taken = set(patched.add_patches(patches, strength_model))
    if patched_clip is not None:
        taken |= set(patched_clip.add_patches(patches, strength_clip))
    for module in modules:
        if not taken & module.patches.keys():
            left = {**left, **dict.fromkeys(module.keys, "the model has no such layer")}
        elif all(patches[name] is not patch for name, patch in module.patches.items()):
            left = {**left, **dict.fromkeys(module.keys, "the file changes this layer under another name too")}
    applied = sum(key not in left for module in modules for key in module.keys)
    if not applied:
        raise UnsupportedAdapter(_explain_no_fit(adapter, base, left))
    return ApplyResult(patched, patched_clip, applied, left)


def _explain_no_fit(adapter: Adapter, base: HostBase, left: Mapping[str, str]) -> str:
    telling = {key: reason for key, reason in left.items() if reason not in (NO_SUCH_LAYER, OF_TEXT_ENCODER)}
    key, reason = next(iter((telling or left).items()))
    return (
        f"LoRA {adapter.name} on {base.name}: expected modules that fit, found none. The first, {key}: {reason}. "
        "Connect the model that it was made for, or project it to this one first."
    )


def _patches_of(spelled: str, group: Group, settings: PeftSettings, base: HostBase) -> tuple[_Patches, dict[str, str]]:
    """The patches of a module, and its keys that are not in them, with the reason."""
    target = base.key_map[spelled]
    name, magnitude = group.module, group.tensors.get(f"{spelled}{MAGNITUDE}")
    try:
        module = read_module(spelled, group, target)
        patches = module.patches
        for parameter, patch in patches.items():
            if parameter == target and layer_name(target) in base.layers:
                _check(patch, base, layer_name(target))
                check_dora(patch, magnitude, name, settings)
            elif isinstance(patch, LoRAAdapter) and patch.weights[5] is not None:
                raise UnsupportedAdapter("its reshape_weight pads a parameter that is no matrix of the model")
        if spelled in base.extra or any(key != own for key, own in group.file_keys.items()):
            patches = {parameter: apply_scale(patch, name, settings) for parameter, patch in patches.items()}
        if magnitude is not None and layer_name(target) in base.layers:
            check_norms(magnitude, group.file_keys[f"{spelled}{MAGNITUDE}"], base.layers[layer_name(target)])
            patches = {**patches, target: add_norms(patches[target], magnitude)}
    except (UnsupportedAdapter, ShapeMismatch) as error:
        return _Patches({}, ()), dict.fromkeys(group.keys(), str(error))
    left = {group.file_keys[key]: reason for key, reason in module.unread.items() if group.file_keys[key]}
    patches = {_parameter(parameter, target): patch for parameter, patch in patches.items()}
    return _Patches(patches, tuple(key for key in group.keys(module.read) if key not in left)), left


def _check(patch: Any, base: HostBase, layer: str) -> None:
    """UnsupportedAdapter where a patch does not fit its layer; no weight is read."""
    place = base.layers[layer]
    delta_of_patch(patch, place, lambda: base.read(place))


def _parameter(name: Any, target: Any) -> Any:
    """The parameter of a patch. ComfyUI 0.30 names the bias of a slice after the slice's tuple, and then drops it."""
    key, rows, _ = parse_target(target)
    if name == target or rows is None:
        return name
    return key.removesuffix(".weight") + ".bias", (0, rows.start, rows.length)
