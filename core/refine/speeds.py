"""How fast a whole model runs on a kind of device, as a share of the speed of a matrix product there.

The one place for what is measured of speed: benchmarks/device prints the share that corrects a line of it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """measured_on: the device and the model, as a sentence has them; None where the share is judged."""

    of_product: float
    measured_on: str | None = None


PROCESSOR = Share(1.0, "two cores with a UNet of 0.6 G parameters")  # 1.0 to 1.2
CARD = Share(0.5)
