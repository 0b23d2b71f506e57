"""A base model in memory: a dict of weights as the engine's `Base`."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from .layers import Layer, WeightRef


def no_blocks(name: str) -> tuple[str, str]:
    """Every layer stands outside all blocks, and its role is its name."""
    return "", name


class MemoryBase:
    """Weights (out, in) or (out, in, kh, kw) by layer name; tensors of one axis (biases, norms) are no layers.

    block_and_role: splits a layer's name into its block ("blocks.3") and its role in it ("attn.q"). Without it no layer
    belongs to a block, and layers pair by name alone. file: as in `WeightRef.file`.
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
