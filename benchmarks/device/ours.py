"""Every call of this benchmark into the pack, in one place: the transfer, Check, Refine and its estimate, as the nodes
make them."""

# The pack's own name exists only once bare.prepare() has given it.
# pyright: reportMissingImports=false

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Measured:
    """What a run of Check or Refine says: its score, the seconds of its parts, and its notes."""

    score: float
    before: float | None
    seconds: float
    teaching: float
    steps: int
    notes: tuple[str, ...]
    pictures: int = 0


def adapter_of(tensors: Mapping[str, Tensor], name: str) -> Any:
    from lora_transfer.nodes.host.adapter.adapter import adapter_from_state_dict

    return adapter_from_state_dict(tensors, name)


def build_all_weights() -> Any:
    """The context in which the pack builds ComfyUI's models on the meta device."""
    from lora_transfer.nodes.host.base import detect

    return detect.build_all_weights()


def adapter_at(path: Path) -> Any:
    from lora_transfer.nodes.host.adapter.adapter import adapter_from_file

    return adapter_from_file(path, path.name)


def transferred(adapter: Any, source: Any, target: Any) -> Any:
    """The adapter for the target by the default method, as Compute Subspace Similarity and Project LoRA make it of two
    loaded models."""
    from lora_transfer.core.plan import TransferSettings
    from lora_transfer.core.subspace import RankRule
    from lora_transfer.nodes.host.base.from_model import base_from_model
    from lora_transfer.nodes.host.compare import CompareSettings, compare_bases
    from lora_transfer.nodes.host.project import project
    from lora_transfer.nodes.host.session import resources

    bases, using = (base_from_model(source), base_from_model(target)), resources()
    settings = CompareSettings(RankRule("fraction", 0.5), "weight_cosine")
    compared = compare_bases(*bases, adapter, settings, using, lambda _: None)
    return project(compared.comparison, adapter, TransferSettings(threshold=0.0), using).adapter


def checked(
    source: Any, target: Any, adapter: Any, transferred: Any, conditioning: Any, size: int, levels: int
) -> Measured:
    """A check with two noises at some noise levels, at a size in pixels."""
    from lora_transfer.core.check import CheckSettings
    from lora_transfer.core.progress import ignore_progress
    from lora_transfer.nodes.host.check import CheckInputs, check

    sides = CheckInputs(source, target, conditioning, conditioning)
    report = check(
        sides, adapter, transferred, (), None, CheckSettings(size=size, timesteps=levels), ignore_progress
    ).report
    pooled = report.transferred.at_strength_one().pooled
    return Measured(pooled.score, None, report.seconds, 0.0, 0, report.notes)


@dataclass(frozen=True)
class RefineWords:
    """steps, batch, samplings, checks, size in pixels: of a refinement."""

    steps: int
    batch: int
    samplings: int
    checks: int
    size: int


def refined(
    source: Any,
    target: Any,
    adapter: Any,
    transferred: Any,
    conditioning: Any,
    words: RefineWords,
    say: Callable[[str], None],
    vae: Any = None,
) -> Measured:
    """A refinement; transferred: None starts from zeros; vae: decodes pictures on the way."""
    from lora_transfer.core.refine.loop import RefineSettings
    from lora_transfer.nodes.host.refine.run import RefineInputs, refine_adapter
    from lora_transfer.nodes.host.refine.teacher import TeacherSettings

    inputs = RefineInputs(source, target, adapter, conditioning, transferred, target_vae=vae)
    settings = RefineSettings(steps=words.steps, batch=words.batch, checks=words.checks, patience=0)
    result = refine_adapter(inputs, settings, TeacherSettings(words.samplings), words.size, say)
    report, pictures = result.report, 0 if result.pictures is None else len(result.pictures)
    teaching, steps = report.teacher.seconds, len(report.losses)
    return Measured(report.best, report.before, report.seconds, teaching, steps, report.notes, pictures)


def estimate(target: Any, words: RefineWords) -> tuple[float, float]:
    """What the node says beforehand of such a refinement: seconds of all of it, and bytes."""
    from lora_transfer.core.refine.loop import RefineSettings
    from lora_transfer.core.refine.outlook import estimate_cost, measure_size
    from lora_transfer.nodes.host.base.from_model import base_from_model
    from lora_transfer.nodes.host.refine.estimate import measure_device

    settings = RefineSettings(steps=words.steps, batch=words.batch, checks=words.checks)
    cost = estimate_cost(measure_size(base_from_model(target)), measure_device(), words.size, settings, words.samplings)
    return cost.seconds, cost.bytes


def share_of_speed(device: str) -> float:
    """The share of a matrix product's speed that the estimate counts with: core/refine/speeds.py."""
    from lora_transfer.core.refine.speeds import CARD, PROCESSOR

    return (CARD if device == "cuda" else PROCESSOR).of_product
