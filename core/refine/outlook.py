"""Is it worth refining on this pair of bases, and what will it cost? A sentence for a person, before anything is run.

Worth: what refining won in benchmarks/refine, on small models. Cost: an estimate from the target's size and the speed
of the device, by the counts of benchmarks/refine/memory.py.
"""

from dataclasses import dataclass
from typing import Any

from ..layers import Base, Layer
from ..verdict import Verdict
from .loop import RefineSettings
from .teacher_samples import SAMPLINGS, STEPS_DOWN, count_held_out

# Tokens that each parameter meets in a picture of _PIXELS, attention included: forward operations / (2 parameters).
# Counted: SDXL 6.8 TFLOP for 2.6 G parameters, Flux dev 70 TFLOP for 12 G.
_PIXELS = 1024
_TOKENS_UNET, _TOKENS_TRANSFORMER = 1300, 2900
_CONVOLVED = 0.05  # share of the parameters in kernels from which a model is a UNet; transformers have next to none

_BOTH_WAYS = 3.2  # passes that a trained row costs: forward, again for the backward pass, and that; counted 3.1 and 3.3
_KEPT = 0.76e6  # bytes a token that a row keeps for it, with checkpoints: 1.0 GB on SDXL and 2.2 GB on Flux
_ADAM = 16  # bytes of a factor's entry: itself, its gradient and two moments in float32
_MARGIN = 1.1  # gradients in flight and the allocator's gaps

_LEFT_BEHIND = 0.05  # share of the LoRA from which there is something to learn back


@dataclass(frozen=True)
class ModelSize:
    """parameters: of the diffusion model's matrices and kernels; sides: sum of m + n over them, which times the rank
    is the size of factors; bytes: of its weights in memory; unet: whether it is one."""

    parameters: int
    sides: int
    bytes: int
    unet: bool


@dataclass(frozen=True)
class Device:
    """name: as a sentence has it, "this card"; speed: operations a second that a model comes to there, a multiplication
    and an addition counted as two; memory: bytes in all; measured_on: where the share of a product's speed that a model
    comes to was measured, None where it is judged."""

    name: str
    speed: float
    memory: float
    measured_on: str | None = None

    def basis(self) -> str:
        return "estimated" if self.measured_on is None else f"measured on {self.measured_on}"


@dataclass(frozen=True)
class Cost:
    """Of a run at the node's own settings, an estimate: seconds, and the least bytes, with one latent at once and
    checkpoints."""

    seconds: float
    bytes: float
    pixels: int
    steps: int
    device: Device

    def sentence(self) -> str:
        said = f"about {_spoken(self.seconds)} and at least {_gigabytes(self.bytes)} on {self.device.name}"
        known = self.device.measured_on is not None
        basis = f"by the speed {self.device.basis()}" if known else self.device.basis()
        counted = f"{basis}, for {self.steps} steps at {self.pixels} px"
        if self.bytes > self.device.memory:
            there = f"which has {_gigabytes(self.device.memory)}: take weights in fp8 or smaller pictures"
            return f"{said}, {there} ({counted})"
        return f"{said} ({counted})"


@dataclass(frozen=True)
class Outlook:
    """Whether Refine LoRA is worth its cost on a pair of bases."""

    advice: str
    cost: Cost

    def sentence(self) -> str:
        return f"Refine LoRA {self.advice}; {self.cost.sentence()}"

    def as_json(self) -> dict[str, Any]:
        cost = self.cost
        return {
            "sentence": self.sentence(),
            "seconds": cost.seconds,
            "bytes": cost.bytes,
            "steps": cost.steps,
            "pixels": cost.pixels,
            "memory": cost.device.memory,
            "basis": cost.device.basis(),
        }


def advice(verdict: Verdict) -> str:
    """What refining won on pairs of this kind, in shares of what a LoRA trained on the target itself gains: means over
    families and seeds of benchmarks/refine, on its drifted, pruned and unlike targets."""
    if verdict.word == "refuse":
        return "from zeros is the only way: 84 to 91% of a trained LoRA's gain came back on another seed or width"
    if verdict.word == "risky" or (verdict.figures.lost or 0) > _LEFT_BEHIND:
        return "is worth it: on a pruned target 78% of a trained LoRA's gain became 95%"
    return (
        "adds little where the LoRA is strong (85% of a trained one's gain became 95%), most where it is subtle "
        "(51% became 83%)"
    )


def size_of(base: Base) -> ModelSize:
    """From shapes alone: nothing is read. Slices of a fused weight are in it already."""
    layers = [one for one in base.layers.values() if not one.text_encoder and one.weight.rows is None]
    parameters = sum(_entries(layer) for layer in layers)
    kernels = sum(_entries(layer) for layer in layers if layer.weight.shape[2:] == (3, 3))
    return ModelSize(
        parameters,
        sum(sum(layer.weight.matrix_shape) for layer in layers),
        sum(_bytes(layer) for layer in layers),
        unet=kernels > _CONVOLVED * parameters,
    )


def cost_of(
    size: ModelSize, device: Device, pixels: int, settings: RefineSettings | None = None, samplings: int = SAMPLINGS
) -> Cost:
    """Of a run on square pictures: samplings, steps and scores, on a source of the target's size."""
    wanted = settings or RefineSettings()
    tokens = (_TOKENS_UNET if size.unet else _TOKENS_TRANSFORMER) * (pixels / _PIXELS) ** 2
    each = STEPS_DOWN + 1
    scored = count_held_out(samplings) * each * (2 + wanted.checks)  # the bare target's, the start's, and each check's
    passes = samplings * each + wanted.steps * wanted.batch * _BOTH_WAYS + scored
    seconds = passes * 2 * size.parameters * tokens / device.speed
    memory = _MARGIN * (size.bytes + _ADAM * wanted.rank * size.sides + _KEPT * tokens)
    return Cost(seconds, memory, pixels, wanted.steps, device)


def _entries(layer: Layer) -> int:
    rows, columns = layer.weight.matrix_shape
    return rows * columns


def _bytes(layer: Layer) -> int:
    """As ComfyUI holds it: fp8 and int8 as they are, everything else in 16 bits."""
    return _entries(layer) * (1 if "8" in layer.weight.dtype else 2)


def _spoken(seconds: float) -> str:
    """A time as people say one: two digits at most."""
    for unit, length, enough in (("seconds", 1, 90), ("minutes", 60, 90), ("hours", 3600, 48)):
        if seconds < enough * length:
            return f"{max(2, round(seconds / length))} {unit}"
    return f"{seconds / 86400:.0f} days"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.0f} GB" if size > 9.5e9 else f"{size / 1e9:.1f} GB"
