"""Says, before anything runs, whether refining is worth it on a pair of bases, and what it will cost.

The benefit is what refining gained on the small models of benchmarks/refine. The cost is an estimate from the target's
size and the device's speed, with the operation counts of benchmarks/refine/memory.py.
"""

from dataclasses import dataclass
from typing import Any

from ..layers import Base, Layer
from ..pair_kinds import Gain, PairKind
from ..verdict import Word
from .loop import RefineSettings
from .teacher_samples import SAMPLINGS, STEPS_DOWN, count_held_out

# Forward operations / (2 parameters) for a picture of _PIXELS, including attention: the average number of tokens that
# use a parameter. Counted: SDXL 6.8 TFLOP for 2.6 G parameters, Flux dev 70 TFLOP for 12 G.
_PIXELS = 1024
_TOKENS_UNET, _TOKENS_TRANSFORMER = 1300, 2900
_TOKENS_OF_TEXT = 32  # do not shrink with the picture; from a run of the emoji transformer at 64 px
_UNET_KERNELS = (
    0.05  # share of parameters in 3 x 3 kernels above which a model is a UNet; transformers have almost none
)

_PASSES_PER_ROW = 3.2  # cost of a trained row in forward passes, with checkpoints; counted 3.1 (SDXL) and 3.3 (Flux)
_BYTES_PER_TOKEN = 0.76e6  # stored for the backward pass, with checkpoints: 1.0 GB on SDXL and 2.2 GB on Flux
_BYTES_PER_FACTOR_ENTRY = 16  # the value, its gradient and Adam's two moments in float32
_MARGIN = 1.1  # for temporary gradients and the allocator's gaps

_FROM_ZEROS = "must start from zeros here (leave its input transferred empty)"
_WORTH_IT = 0.12  # of a trained LoRA's gain; smaller differences cannot be seen in the drawings (benchmarks/quality)


@dataclass(frozen=True)
class ModelSize:
    """The size of a diffusion model.

    parameters: the number of values in matrices and kernels. sides: the sum of m + n over these; multiplied by a rank,
    it is the number of values in a LoRA's factors. bytes: of the weights in memory. unet: whether the model is a UNet.
    """

    parameters: int
    sides: int
    bytes: int
    unet: bool


@dataclass(frozen=True)
class Device:
    """A device to refine on.

    name: for sentences, such as "this card". speed: operations per second in a whole model; a multiplication and an
    addition count as two. memory: bytes. measured_on: where the ratio of a model's speed to that of a matrix product
    was measured; None if it is a guess.
    """

    name: str
    speed: float
    memory: float
    measured_on: str | None = None

    def basis(self) -> str:
        return "estimated" if self.measured_on is None else f"measured on {self.measured_on}"


@dataclass(frozen=True)
class Cost:
    """Estimated cost of a run with the node's default settings.

    bytes: the minimum, with one latent at a time and checkpoints. pixels: side of the square pictures.
    """

    seconds: float
    bytes: float
    pixels: int
    steps: int
    device: Device

    def sentence(self) -> str:
        cost = f"about {_format_time(self.seconds)} and at least {_format_memory(self.bytes)} on {self.device.name}"
        is_measured = self.device.measured_on is not None
        basis = f"by the speed {self.device.basis()}" if is_measured else self.device.basis()
        run = f"{basis}, for {self.steps} steps at {self.pixels} px"
        if self.bytes > self.device.memory:
            available = f"which has {_format_memory(self.device.memory)}: use weights in fp8, or smaller pictures"
            return f"{cost}, {available} ({run})"
        return f"{cost} ({run})"


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


def advise(kind: PairKind, word: Word) -> str:
    """Say whether refining is worth it on this kind of pair, with the figures that were measured on it."""
    if kind.refined is None:
        start = _FROM_ZEROS if word == "refuse" else "may bring more of the LoRA"
        return f"{start}; there are no figures, because {kind.target}"
    if kind.start is None:
        return f"{_FROM_ZEROS}: on {kind.target} it recovered {_of_trained(kind.refined)}"
    return f"{_worth(kind.start, kind.refined)}: on {kind.target} it raised {_of_trained(kind.start, kind.refined)}"


def _worth(start: Gain, refined: Gain) -> str:
    strong, subtle = refined.strong - start.strong > _WORTH_IT, refined.subtle - start.subtle > _WORTH_IT
    if strong and subtle:
        return "is worth it"
    return "is worth it for a subtle style, and adds little to a strong one" if subtle else "adds little here"


def _of_trained(*gains: Gain) -> str:
    """Shares of the gain of a LoRA trained on the target: one for each style, or before and after."""
    strong, subtle = (" to ".join(f"{share:.0%}" for share in style) for style in zip(*gains, strict=True))
    return f"{strong} of a trained LoRA's gain for a strong style, {subtle} for a subtle one"


def measure_size(base: Base) -> ModelSize:
    """The size of a base, from shapes alone. Slices of a fused weight are left out, because they are part of it."""
    layers = [layer for layer in base.layers.values() if not layer.text_encoder and layer.weight.rows is None]
    parameters = sum(_entries(layer) for layer in layers)
    kernels = sum(_entries(layer) for layer in layers if layer.weight.shape[2:] == (3, 3))
    return ModelSize(
        parameters,
        sum(sum(layer.weight.matrix_shape) for layer in layers),
        sum(_bytes(layer) for layer in layers),
        unet=kernels > _UNET_KERNELS * parameters,
    )


def estimate_cost(
    size: ModelSize, device: Device, pixels: int, settings: RefineSettings | None = None, samplings: int = SAMPLINGS
) -> Cost:
    """Estimate the cost of a run on square pictures: samplings, steps and scores.

    size: of the target; the source is assumed to be as large. pixels: side of the pictures.
    """
    chosen = settings or RefineSettings()
    counted = _TOKENS_UNET if size.unet else _TOKENS_TRANSFORMER
    tokens = (counted - _TOKENS_OF_TEXT) * (pixels / _PIXELS) ** 2 + _TOKENS_OF_TEXT
    rows = STEPS_DOWN + 1  # of a sampling
    scored = count_held_out(samplings) * rows * (2 + chosen.checks)  # the bare target, the start, and each check
    passes = samplings * rows + chosen.steps * chosen.batch * _PASSES_PER_ROW + scored
    seconds = passes * 2 * size.parameters * tokens / device.speed
    memory = _MARGIN * (size.bytes + _BYTES_PER_FACTOR_ENTRY * chosen.rank * size.sides + _BYTES_PER_TOKEN * tokens)
    return Cost(seconds, memory, pixels, chosen.steps, device)


def _entries(layer: Layer) -> int:
    rows, columns = layer.weight.matrix_shape
    return rows * columns


def _bytes(layer: Layer) -> int:
    """The bytes of a layer in ComfyUI: fp8 and int8 weights stay as they are, all others have 16 bits."""
    return _entries(layer) * (1 if "8" in layer.weight.dtype else 2)


def _format_time(seconds: float) -> str:
    """A time with at most two digits, such as "9 hours"."""
    for unit, length, limit in (("seconds", 1, 90), ("minutes", 60, 90), ("hours", 3600, 48)):
        if seconds < limit * length:
            return f"{max(2, round(seconds / length))} {unit}"
    return f"{seconds / 86400:.0f} days"


def _format_memory(size: float) -> str:
    if size < 0.95e9:
        return f"{size / 1e6:.0f} MB"
    return f"{size / 1e9:.0f} GB" if size > 9.5e9 else f"{size / 1e9:.1f} GB"
