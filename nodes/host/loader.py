"""Loads a LoRA of another base: transfers it once, keeps the result on disk, and applies it to the connected model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...core.errors import NothingToTransfer
from ...core.methods.copy import COPY
from ...core.plan import TransferSettings
from ...core.reports.line import Line
from ...core.resources import Resources
from .adapter.adapter import Adapter, adapter_from_file
from .adapter.apply import ApplyResult, apply
from .adapter.group import group_by_module
from .adapter.strength import scale_adapter
from .base.encoder import with_encoder_of
from .base.from_model import HostBase, base_from_clip
from .compare import CompareResult, CompareSettings, compare_bases
from .kept_results import KeptResult, KeptResults, result_key
from .paths import adapter_path
from .project import ProjectResult, project
from .source import Source, base_without_loras, choose_source
from .without_source import transfer_without_source


@dataclass(frozen=True)
class LoaderInputs:
    """What is connected to the loader and chosen on it. clip, source_model: None if not connected."""

    model: Any
    clip: Any | None
    lora_name: str
    trained_on: str
    source_model: Any | None = None


@dataclass(frozen=True)
class LoaderResult:
    """The model and the text encoder with the LoRA, the transferred LoRA's tensors, what the node says, and the report
    as JSON values; None if nothing was transferred."""

    model: Any
    clip: Any | None
    lora_model: Mapping[str, Tensor]
    lines: tuple[Line, ...]
    report: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class _Target:
    """The connected model and its base, and the CLIP if the LoRA changes text encoders; else None."""

    model: Any
    base: HostBase
    clip: Any | None

    @property
    def encoder_fingerprint(self) -> str | None:
        return None if self.clip is None else base_from_clip(self.clip).fingerprint


def load_from_another_base(
    inputs: LoaderInputs,
    strength_model: float,
    strength_clip: float,
    settings: TransferSettings,
    using: Callable[[], Resources],
    tell: Callable[[str], None],
) -> LoaderResult:
    """Apply a LoRA to a model of another base. Only the first run on the same content transfers it, or is refused after
    a comparison.

    using: called before a transfer. tell: gets what is known while a transfer runs. NothingToTransfer if the bases are
    unrelated and the method is not copy; InvalidSetting if the source has to be guessed and the guess is not sure.
    """
    adapter = adapter_from_file(adapter_path(inputs.lora_name), inputs.lora_name)
    target = _open_target(inputs, adapter)
    source = choose_source(inputs.trained_on, inputs.source_model, adapter, target.base)
    if source is not None and source.is_loaded_as(inputs.model):
        chosen = _as_it_is(adapter, source.name, target, settings)
    else:
        chosen = _transfer_once(adapter, source, target, settings, using, tell)
    strength_clip = 0.0 if inputs.clip is None else strength_clip
    applied = apply(chosen.adapter, inputs.model, inputs.clip, strength_model, strength_clip, base=target.base)
    lines = (*(() if source is None else source.lines), *chosen.lines, *_lines_of_application(applied))
    return LoaderResult(applied.model, applied.clip, chosen.adapter.state_dict(), lines, chosen.report or None)


def _open_target(inputs: LoaderInputs, adapter: Adapter) -> _Target:
    base = base_without_loras(inputs.model)
    if inputs.clip is None:
        return _Target(inputs.model, base, None)
    _, not_in_model = group_by_module(adapter.state_dict(), base)
    return _Target(inputs.model, base, inputs.clip if not_in_model else None)


def _as_it_is(adapter: Adapter, source: str, target: _Target, settings: TransferSettings) -> KeptResult:
    said = f"The connected model is the LoRA's own base ({source}): the LoRA is loaded as it is."
    scaled = scale_adapter(adapter, settings.gain, with_encoder_of(target.base, target.clip))
    notes = (Line.sentence("warn", note) for note in scaled.notes)
    return KeptResult(scaled.adapter, (Line("good", said), *notes), {})


def _transfer_once(
    adapter: Adapter,
    source: Source | None,
    target: _Target,
    settings: TransferSettings,
    using: Callable[[], Resources],
    tell: Callable[[str], None],
) -> KeptResult:
    """The transferred LoRA: from disk, or else made now and kept. A refusal is kept too."""
    results = KeptResults.open()
    key = result_key(
        settings,
        lora=adapter.fingerprint,
        source=None if source is None else source.fingerprint,
        target=target.base.fingerprint,
        encoder=target.encoder_fingerprint,
        # Names are part of the advice: a name can be that of the LoRA's base, or of a distilled model.
        source_name=None if source is None else source.name,
        target_name=target.base.name,
    )
    if (kept := results.find(key)) is not None:
        return kept.saying(Line("plain", "This transfer was kept from an earlier run: no base was read."))
    if source is not None and source.equals(target.model):
        return _as_it_is(adapter, source.name, target, settings)
    try:
        result = _transfer(adapter, source, target, settings, using(), tell)
    except NothingToTransfer as refusal:
        if not _has_changed(source):
            results.keep_refusal(key, refusal)
        raise
    if source is not None and _has_changed(source):
        return result.saying(Line("warn", f"{source.name} changed while it was read: the result is not kept."))
    return result.saying(results.keep(key, result))


def _has_changed(source: Source | None) -> bool:
    """Whether the source's file was replaced while it was read."""
    return source is not None and source.base.fingerprint != source.fingerprint


def _transfer(
    adapter: Adapter,
    source: Source | None,
    target: _Target,
    settings: TransferSettings,
    using: Resources,
    tell: Callable[[str], None],
) -> KeptResult:
    """NothingToTransfer if the bases are unrelated, unless the method is copy: then the LoRA as it is."""
    on = with_encoder_of(target.base, target.clip)
    if source is None:
        return _result_of(transfer_without_source(adapter, on, settings, using))
    base = with_encoder_of(source.base, target.clip)
    compared = compare_bases(base, on, adapter, CompareSettings(measure="weight_cosine"), using, tell)
    verdict = compared.survey.verdict
    if verdict is not None and verdict.word == "refuse" and settings.method == COPY.name:
        return _copy_between_strangers(adapter, on, settings.gain, compared)
    projected = project(compared.comparison, adapter, settings, using)
    return (
        _as_it_is(adapter, base.name, target, settings)
        if projected.report.is_between_equal_bases()
        else _result_of(projected)
    )


def _copy_between_strangers(adapter: Adapter, target: HostBase, gain: float, compared: CompareResult) -> KeptResult:
    scaled = scale_adapter(adapter, gain, target)
    lines = (
        Line("bad", "The LoRA is loaded as it is, as the method says: these bases are unrelated."),
        *compared.lines(),
        *(Line.sentence("warn", note) for note in scaled.notes),
    )
    return KeptResult(scaled.adapter, lines, {})


def _result_of(projected: ProjectResult) -> KeptResult:
    return KeptResult(projected.adapter, projected.lines(applied=True), projected.report.for_picture())


def _lines_of_application(applied: ApplyResult) -> tuple[Line, ...]:
    """What of the LoRA the model does not take, and where ComfyUI's own loader differs; nothing if it takes all."""
    return applied.lines() if applied.not_applied or applied.differs else ()
