"""The speed of a whole model on a kind of device, as a share of the speed of a matrix product there.

To correct a figure, run benchmarks/device: it prints the share.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class SpeedShare:
    """of_product: the share. measured_on: device and model, for sentences; None if the share is a guess."""

    of_product: float
    measured_on: str | None = None


PROCESSOR = SpeedShare(1.0, "two cores with a UNet of 0.6 G parameters")  # 1.0 to 1.2
CARD = SpeedShare(0.18, "an NVIDIA H200 with SDXL in 16 bits")  # two runs of benchmarks/device: 0.19 and 0.18
