"""Says what a base model is, for the node that opened it."""

from ....core.reports.line import Line
from .from_model import HostBase


def describe_base(base: HostBase) -> tuple[Line, ...]:
    """The base's family and the number of its layers, then its notes, as sentences for the node."""
    whole = [layer for layer in base.layers.values() if layer.weight.rows is None]
    encoders = sum(layer.text_encoder for layer in whole)
    of_encoder = f", and {encoders} in the text encoder" if encoders else ""
    counted = f"{base.family}: {len(whole) - encoders} layers in the diffusion model{of_encoder}"
    return (Line.sentence("plain", counted), *(Line.sentence("plain", note) for note in base.notes))
