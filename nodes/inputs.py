"""Inputs that several nodes share."""

from typing import Any

from comfy_api.latest import io

from ..core.methods import METHODS
from ..core.plan import BY_MEASURE, TransferSettings
from ..core.similarity import THRESHOLDS
from .sockets import AdapterSocket


def comparison_inputs() -> list[Any]:
    """Both models without the LoRA, and the LoRA as it was trained."""
    return [
        io.Model.Input("source_model", tooltip="The model that the LoRA was trained on, without the LoRA."),
        io.Model.Input("target_model", tooltip="The model that you want to use the LoRA on, without the LoRA."),
        original_adapter_input(),
    ]


def original_adapter_input() -> Any:
    return AdapterSocket.Input("adapter", tooltip="The LoRA as it was trained, from Load LoRA (Transfer).")


def threshold_input(**options: Any) -> Any:
    values = " and ".join(f"{value:g} for {measure}" for measure, value in THRESHOLDS.items())
    return io.Float.Input(
        "threshold",
        default=TransferSettings.threshold,
        min=BY_MEASURE,
        max=1.0,
        step=0.01,
        tooltip=f"The lowest similarity at which a layer is transferred; {BY_MEASURE:g} stands for {values}. Lower it "
        "if the node says that layers of related bases were skipped.",
        **options,
    )


def method_input(**options: Any) -> Any:
    return io.Combo.Input(
        "method",
        options=[method.name for method in METHODS],
        default=TransferSettings.method,
        tooltip="\n".join(f"{method.name}: {method.summary}" for method in METHODS),
        **options,
    )


def gain_input() -> Any:
    return io.Float.Input(
        "gain",
        default=TransferSettings.gain,
        min=0.0,
        max=4.0,
        step=0.05,
        optional=True,
        advanced=True,
        tooltip="Multiplies the whole LoRA, like a strength. 1 measured best or nearly best, also where blocks are "
        "missing; use less for a subtle style that comes out too strong.",
    )


def target_conditioning_input() -> Any:
    return io.Conditioning.Input(
        "target_conditioning",
        optional=True,
        tooltip="The same prompts in the same order, encoded by the target's text encoder. Connect it if the two "
        "models have different text encoders.",
    )


def strength_input(name: str, tooltip: str) -> Any:
    """A strength with the limits of ComfyUI's Load LoRA."""
    return io.Float.Input(name, default=1.0, min=-100.0, max=100.0, step=0.01, tooltip=tooltip)


def seed_input(tooltip: str) -> Any:
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=io.ControlAfterGenerate.fixed,  # or the page changes it at every run
        optional=True,
        advanced=True,
        tooltip=tooltip,
    )


def size_input() -> Any:
    return io.Int.Input(
        "size",
        default=0,
        min=0,
        max=4096,
        step=8,
        optional=True,
        advanced=True,
        tooltip="Width and height of the pictures in pixels, if no latent is connected; 0 is the size that the source "
        "was made for. Choose a smaller size if memory is short.",
    )


def learning_rate_input(default: float) -> Any:
    """The rate of a training, as core.refine.loop takes it."""
    return io.Float.Input(
        "learning_rate",
        default=default,
        min=0.0001,
        max=1.0,
        step=0.0001,
        optional=True,
        advanced=True,
        tooltip="How much a step changes a factor of the LoRA, as a share of the factor's size. The default suits "
        "every model.",
    )
