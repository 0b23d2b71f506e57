"""Applies an adapter to a loaded model with ComfyUI's patches: the same changes that Project LoRA transfers."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from comfy.weight_adapter import LoRAAdapter

from ....core.errors import ShapeMismatch, UnsupportedAdapter
from ....core.reports.line import Line
from ..base.from_model import HostBase, base_from_clip, base_from_model, join_encoder
from ..base.names import layer_name, parse_target, row_order, to_file_order
from .adapter import Adapter
from .group import MAGNITUDE, NO_SUCH_LAYER, OF_TEXT_ENCODER, Group, explain_no_match, group_by_module
from .kinds import delta_of_patch
from .module import read_module
from .peft import PeftSettings, peft_settings
from .peft_dora import add_norms
from .positions import RESHAPE
from .row_order import in_file_order
from .scale import apply_scale, check_norms, check_settings
from .tlora import TLora, as_lora
from .vectors import vectors_of_module

# Where ComfyUI's own loader makes another patch of the same keys, which is not what the trainer did.
_SCALE = "it ignores the scale in the file's metadata"
_NORMS = "it does not read the norms of PEFT's DoRA"
_TLORA = "it does not read T-LoRA"
_ROWS = "it computes kinds that depend on the weight with the rows of two orders mixed"
_BIAS = "it drops the bias of a layer whose name stands for some of its rows, or for rows in another order"


@dataclass(frozen=True)
class ApplyResult:
    """The patched model and text encoder. keys: the number of the file's keys in them; not_applied: the other keys with
    the reason; differs: the number of modules that ComfyUI's own loader reads differently, by what it does."""

    model: Any
    clip: Any | None
    keys: int = 0
    not_applied: Mapping[str, str] = field(default_factory=dict[str, str])
    differs: Mapping[str, int] = field(default_factory=dict[str, int])

    def summary(self) -> str:
        """What was applied in one line, for the user."""
        if not self.keys:
            return "strength 0: nothing changed"
        return "; ".join((self._applied(), *self._differences()))

    def lines(self) -> tuple[Line, ...]:
        """What was applied, as sentences for the node."""
        if not self.keys:
            return (Line.sentence("plain", self.summary()),)
        applied = Line.sentence("warn" if self.not_applied else "good", self._applied())
        connect = (Line("next", "Next: connect the CLIP to apply the LoRA's part for the text encoder too."),)
        advice = connect if OF_TEXT_ENCODER in self.not_applied.values() else ()
        return (applied, *(Line.sentence("plain", difference) for difference in self._differences()), *advice)

    def _applied(self) -> str:
        if not self.not_applied:
            return f"all {self.keys} keys applied"
        reason, count = Counter(self.not_applied.values()).most_common(1)[0]
        others = len(self.not_applied)
        return f"{self.keys} of {self.keys + others} keys applied; not applied: {others} ({count}: {reason})"

    def _differences(self) -> Iterator[str]:
        for what, count in self.differs.items():
            yield f"differs from ComfyUI's own loader in {count} module{'s' if count > 1 else ''}: {what}"


@dataclass(frozen=True)
class _Patches:
    """ComfyUI's patches of one module, the file's keys that are in them, and where ComfyUI's own loader differs."""

    patches: Mapping[Any, Any]
    keys: tuple[str, ...]
    differs: tuple[str, ...] = ()


def apply(
    adapter: Adapter,
    model: Any,
    clip: Any | None,
    strength_model: float,
    strength_clip: float,
    *,
    base: HostBase | None = None,
) -> ApplyResult:
    """Apply the adapter to a model and its text encoder: the changes that Project LoRA transfers, as ComfyUI's patches.

    base: that of the model, if the caller has it. ComfyUI's loader does the same wherever it reads the file as its
    trainer meant it; `differs` says where it does not. UnsupportedAdapter if nothing of the adapter fits the model.
    """
    if strength_model == 0 and strength_clip == 0:
        return ApplyResult(model, clip)  # the very same model, as ComfyUI's own loader returns it
    base = base or base_from_model(model)
    base = base if clip is None else join_encoder(base, base_from_clip(clip))
    groups, reasons = group_by_module(adapter.state_dict(), base)
    if not groups:
        raise UnsupportedAdapter(explain_no_match(adapter.name, base, reasons))
    settings = peft_settings(adapter.metadata, adapter.name)
    modules: list[_Patches] = []
    for spelled, group in groups.items():
        module, reasons_of_module = _patches_of(spelled, group, settings, base)
        modules.append(module)
        reasons = {**reasons, **reasons_of_module}
    patches: dict[Any, Any] = {}
    for module in modules:
        patches = {**module.patches, **patches}  # if two modules name the same layer, the first counts
    patched, patched_clip = model.clone(), None if clip is None else clip.clone()
    accepted = set(patched.add_patches(patches, strength_model))
    if patched_clip is not None:
        accepted |= set(patched_clip.add_patches(patches, strength_clip))
    for module in modules:
        if not accepted & module.patches.keys():
            reasons = {**reasons, **dict.fromkeys(module.keys, "the model has no such layer")}
        elif all(patches[name] is not patch for name, patch in module.patches.items()):
            reasons = {**reasons, **dict.fromkeys(module.keys, "the file changes this layer under another name too")}
    applied = sum(key not in reasons for module in modules for key in module.keys)
    if not applied:
        raise UnsupportedAdapter(_explain_no_fit(adapter, base, reasons))
    differs = Counter(what for module in modules if not reasons.keys() & {*module.keys} for what in module.differs)
    return ApplyResult(patched, patched_clip, applied, reasons, differs)


def _explain_no_fit(adapter: Adapter, base: HostBase, reasons: Mapping[str, str]) -> str:
    telling = {key: reason for key, reason in reasons.items() if reason not in (NO_SUCH_LAYER, OF_TEXT_ENCODER)}
    key, reason = next(iter((telling or reasons).items()))
    return (
        f"LoRA {adapter.name} on {base.name}: expected modules that fit, found none. The first, {key}: {reason}. "
        "Connect the model that the LoRA was made for, or transfer it to this model first."
    )


def _patches_of(spelled: str, group: Group, settings: PeftSettings, base: HostBase) -> tuple[_Patches, dict[str, str]]:
    """The patches of a module, and its other keys with the reason."""
    target = base.key_map[spelled]
    layer = base.layers.get(layer_name(target))
    try:
        module = read_module(spelled, group, target)
        patches, misfits = _without_misfits(module.patches, group, target, base)
        differs: list[str] = []
        if target in patches and layer is not None:
            patches[target], differs = _on_layer(patches[target], spelled, group, settings, base)
        elif any(isinstance(patch, LoRAAdapter) and patch.weights[RESHAPE] is not None for patch in patches.values()):
            raise UnsupportedAdapter("its reshape_weight pads a parameter that is not a matrix of the model")
    except (UnsupportedAdapter, ShapeMismatch) as error:
        return _Patches({}, ()), dict.fromkeys(group.keys(), str(error))
    reasons = {group.file_keys[key]: reason for key, reason in module.unread.items() if group.file_keys[key]} | misfits
    if not isinstance(target, str) and any(name != target for name in patches):
        differs.append(_BIAS)
    by_parameter = {_parameter(name, target): _reorder(name, patch, target) for name, patch in patches.items()}
    # ComfyUI's loader reads only names of its own, so it can differ only there.
    known_differences = tuple(differs) if spelled == group.module and spelled not in base.extra else ()
    keys = tuple(key for key in group.keys(module.read) if key not in reasons)
    return _Patches(by_parameter, keys, known_differences), reasons


def _on_layer(patch: Any, spelled: str, group: Group, settings: PeftSettings, base: HostBase) -> tuple[Any, list[str]]:
    """The patch of a layer's weight as the trainer meant it, and where ComfyUI's own loader differs. Only a T-LoRA
    needs the weight here. UnsupportedAdapter or ShapeMismatch if the patch does not fit."""
    target = base.key_map[spelled]
    layer, magnitude = base.layers[layer_name(target)], group.tensors.get(f"{spelled}{MAGNITUDE}")
    delta_of_patch(patch, layer, lambda: base.read(layer))
    check_settings(patch, magnitude, group.module, settings)
    scaled, differs = apply_scale(patch, group.module, settings), list[str]()
    if isinstance(patch, TLora):
        return as_lora(patch, layer, lambda: to_file_order(target, base.read(layer))), [_TLORA]
    if scaled is not patch:
        differs.append(_SCALE)
    if magnitude is not None and isinstance(patch, LoRAAdapter):
        check_norms(magnitude, group.file_keys[f"{spelled}{MAGNITUDE}"], layer)
        return add_norms(scaled, magnitude), [*differs, _NORMS]
    if (to_model_order := row_order(target)) is None:
        return scaled, differs
    ordered = in_file_order(scaled, to_model_order)
    return ordered, differs if ordered is scaled else [*differs, _ROWS]


def _without_misfits(
    patches: Mapping[Any, Any], group: Group, target: Any, base: HostBase
) -> tuple[dict[Any, Any], dict[str, str]]:
    """The patches without those of biases, norms and tables that do not fit the model; and the keys of these with the
    reason. ComfyUI would leave them out and say so only in its log."""
    matrix = patches.get(target) if layer_name(target) in base.layers else None
    _, misfits = vectors_of_module(patches, matrix, group, target, base)
    reasons = {key: misfit.reason for misfit in misfits for key in misfit.keys}
    values = {id(tensor) for key, tensor in group.tensors.items() if group.file_keys[key] in reasons}
    fitting = {
        name: patch
        for name, patch in patches.items()
        if patch is matrix or not isinstance(patch, tuple) or id(patch[1][0]) not in values
    }
    return fitting, reasons


def _parameter(name: Any, target: Any) -> Any:
    """The parameter that a patch changes. ComfyUI 0.30 names a bias after its layer's tuple and then drops it."""
    if name == target or isinstance(target, str):
        return name
    key, rows, _ = parse_target(target)
    bias = key.removesuffix(".weight") + ".bias"
    return (bias, None, row_order(target)) if rows is None else (bias, (0, rows.start, rows.length))


def _reorder(name: Any, patch: Any, target: Any) -> Any:
    to_model_order = row_order(target)
    return patch if name == target or to_model_order is None else in_file_order(patch, to_model_order)
