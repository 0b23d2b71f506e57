"""A base model in memory: makes a dict of weights a `Base`."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from .layers import Layer, WeightRef


def no_blocks(name: str) -> tuple[str, str]:
    """Put every layer outside all blocks, with its name as its role."""
    return "", name


class MemoryBase:
    """A base whose weights, (out, in) or (out, in, kh, kw) by layer name, are in memory. Tensors of one axis (biases,
    norms) are not layers.

    block_and_role: splits a layer's name into its block ("blocks.3") and its role there ("attn.q"). The default puts no
    layer into a block, so that layers pair by name only. file: as in `WeightRef.file`.
    """

    def __init__(
        self,
        name: str,
        weights: Mapping[str, Tensor],
        block_and_role: Callable[[str], tuple[str, str]] = no_blocks,
        *,
        file: str | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.name = self.fingerprint = name
        self.notes = notes
        self.weights = weights
        self.layers: dict[str, Layer] = {}
        for key, weight in weights.items():
            if weight.ndim > 1:
                block, role = block_and_role(key)
                self.layers[key] = Layer(key, role, block, WeightRef(key, tuple(weight.shape), "F32", file=file))

    def read(self, layer: Layer) -> Tensor:
        """The layer's weight as a float32 matrix (m, n), in memory of its own."""
        weight = self.weights[layer.name]
        return weight.flatten(1).float().clone()
