"""Makes a module's delta from ComfyUI's patch: as exact factors if the kind has them, else as a dense matrix."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.weight_adapter import LoHaAdapter, LoKrAdapter, LoRAAdapter
from torch import Tensor

from ....core import kinds
from ....core.delta import LowRankDelta
from ....core.errors import ShapeMismatch, UnsupportedAdapter
from ....core.layers import Layer, Rows
from .module import check_fit, compute_weight, misfit
from .positions import ALPHA, CORES, DOWN, RESHAPE, dora_scale_of
from .tlora import TLora, check_shapes, scale_of, tlora_delta

_LARGEST_SCALE = 1e6  # of alpha / rank; trainers write at most some thousands, and beyond 1e30 float32 overflows
_MOST_WIDENED = (
    16  # times a layer's size: control LoRAs double their first layer, inpainting makes it six times as wide
)


@dataclass(frozen=True)
class LazyDelta:
    """A module's delta, which is built when it is needed.

    exact: it has a low-rank form; otherwise it is dense, depends on the source's weight, and is cut after the transfer.
    scale: alpha / rank of the file, which the delta includes. widened: the shape to which it pads its layer. values:
    the number of values in its exact factors. stored: the number of values in the file.
    """

    shape: tuple[int, int]
    exact: bool
    scale: float
    build: Callable[[], LowRankDelta]
    widened: tuple[int, ...] | None = None
    values: int = 0
    stored: int = 0

    def rows(self, rows: Rows) -> "LazyDelta":
        """The delta of a slice of a fused weight."""

        def build() -> LowRankDelta:
            whole = self.build()
            return LowRankDelta(whole.up[rows.as_slice], whole.down)

        shape = rows.length, self.shape[1]
        values = self.values * sum(shape) // sum(self.shape)
        return replace(self, shape=shape, build=build, widened=None, values=values)

    def arranged(self, to_model_order: Callable[[Tensor], Tensor]) -> "LazyDelta":
        """The delta with its rows in the model's order, if the file has another order (Flux's last modulation: scale
        and shift are swapped)."""

        def build() -> LowRankDelta:
            whole = self.build()
            return LowRankDelta(to_model_order(whole.up), whole.down)

        return replace(self, build=build, widened=None)

    def plus(self, second: "LazyDelta") -> "LazyDelta":
        """The sum of two changes of a layer. It is written with the scale of the first."""
        return LazyDelta(
            self.shape,
            self.exact and second.exact,
            self.scale,
            lambda: self.build().plus(second.build()),
            values=self.values + second.values,
            stored=self.stored + second.stored,
        )


class LazyDeltas(Mapping[str, LowRankDelta]):
    """Deltas by layer, built one at a time, because together they can be larger than a base."""

    def __init__(self, deltas: Mapping[str, LazyDelta]) -> None:
        self._deltas = deltas

    def __getitem__(self, layer: str) -> LowRankDelta:
        return self._deltas[layer].build()

    def __iter__(self) -> Iterator[str]:
        return iter(self._deltas)

    def __len__(self) -> int:
        return len(self._deltas)


def delta_of_patch(patch: Any, layer: Layer, source_weight: Callable[[], Tensor]) -> LazyDelta:
    """The delta of ComfyUI's patch on a layer. `source_weight` reads the layer's matrix (m, n), if the kind needs it,
    with its rows in the order of the file; the delta has the same order.

    UnsupportedAdapter gives the reason if the patch does not fit the layer."""
    if isinstance(patch, tuple):
        return _difference(patch, layer, source_weight)
    if isinstance(patch, TLora):
        return _tlora(patch, layer, source_weight)
    _check_cores(patch, layer.weight.shape)
    if type(patch) in _FACTORED and dora_scale_of(patch) is None:
        factors, scale, form = _factors_of(patch, layer)
        shape = form.shape
        _check_scale(scale)
        widened: Any = patch.weights[RESHAPE] if isinstance(patch, LoRAAdapter) else None
        if widened is not None:
            _check_widened(widened, shape, layer)
        # ComfyUI reshapes a Kronecker product of another shape. After that it has no factors of the right shape.
        if shape == layer.weight.matrix_shape or widened is not None:

            def build() -> LowRankDelta:
                return factors(*patch.weights).scaled(scale)

            stored = sum(tensor.numel() for tensor in patch.weights if isinstance(tensor, Tensor))
            widened = None if widened is None else tuple(widened)
            return LazyDelta(shape, True, scale, build, widened, form.rank * sum(shape), stored)
        if (
            isinstance(patch, LoRAAdapter)
            and shape[0] == layer.weight.shape[0]
            and shape[1] > layer.weight.matrix_shape[1]
        ):
            raise UnsupportedAdapter(
                f"it has {shape[1]} inputs, too many to fit the layer's {list(layer.weight.shape)}: it was trained on "
                "a wider model, or it widens the layer like a control LoRA and its reshape_weight is missing"
            )
        if not isinstance(patch, LoKrAdapter):
            raise misfit(patch, layer.weight.shape)
    if isinstance(patch, LoRAAdapter) and patch.weights[RESHAPE] is not None:
        raise UnsupportedAdapter("it is a DoRA with a reshape_weight, but DoRA has no norms for a padded layer")
    check_fit(patch, layer.weight.shape)

    def build_densely() -> LowRankDelta:
        weight = source_weight().reshape(layer.weight.shape)
        changed, done = compute_weight(patch, weight.clone())
        if not done:
            raise UnsupportedAdapter(
                f"Layer {layer.name}: ComfyUI could not compute its {patch.name}; its log says why. Remove the module "
                "from the file, or download the file again."
            )
        return kinds.full((changed - weight).flatten(1))

    return LazyDelta(layer.weight.matrix_shape, False, 1.0, build_densely)


def peft_dora(
    up: Tensor, down: Tensor, magnitude: Tensor, scale: float, layer: Layer, source_weight: Callable[[], Tensor]
) -> LazyDelta:
    """The delta of PEFT's DoRA (arXiv 2402.09353, Eq. 5): W' = m (W + dW) / ||W + dW||, with the norm of each output's
    row."""

    def build() -> LowRankDelta:
        weight = source_weight()
        changed = weight + kinds.lora(up.float(), down.float()).scaled(scale).dense()
        norms = torch.linalg.vector_norm(changed, dim=1, keepdim=True)
        norms = norms.clamp_min(torch.finfo(norms.dtype).tiny)  # a row of zeros stays a row of zeros
        return kinds.full(changed * (magnitude.float().reshape(-1, 1) / norms) - weight)

    return LazyDelta(layer.weight.matrix_shape, False, 1.0, build)


def _tlora(patch: TLora, layer: Layer, source_weight: Callable[[], Tensor]) -> LazyDelta:
    check_shapes(patch, layer)
    _check_scale(scale_of(patch))
    return LazyDelta(layer.weight.matrix_shape, False, 1.0, lambda: tlora_delta(patch, layer, source_weight))


def _factors_of(patch: Any, layer: Layer) -> tuple[Callable[..., LowRankDelta], float, LowRankDelta]:
    """(the function that makes a delta of a patch's tensors, the scale, a delta without values, for its shape)."""
    try:
        factors, scale = _FACTORED[type(patch)](patch.weights)
        shapes = (value.to("meta") if isinstance(value, Tensor) else value for value in patch.weights)
        return factors, scale, factors(*shapes)
    except (AttributeError, IndexError, KeyError, RuntimeError, ShapeMismatch) as error:
        raise misfit(patch, layer.weight.shape) from error


def _difference(patch: tuple[Any, ...], layer: Layer, source_weight: Callable[[], Tensor]) -> LazyDelta:
    """The delta of a full difference ("diff") or of a replaced weight ("set")."""
    kind, (tensor, *_) = patch
    matrix = tensor.flatten(1) if tensor.ndim > 1 else tensor
    if tuple(matrix.shape) != layer.weight.matrix_shape:
        raise UnsupportedAdapter(f"its {kind} has shape {list(tensor.shape)}, the layer {list(layer.weight.shape)}")
    if kind == "set":
        return LazyDelta(layer.weight.matrix_shape, False, 1.0, lambda: kinds.full(matrix.float() - source_weight()))
    return LazyDelta(layer.weight.matrix_shape, False, 1.0, lambda: kinds.full(matrix.float()))


def _check_scale(scale: float) -> None:
    if not abs(scale) <= _LARGEST_SCALE:
        raise UnsupportedAdapter(f"its alpha gives a scale of {scale:.3g}, expected at most {_LARGEST_SCALE:g}")


def _check_widened(widened: Any, shape: tuple[int, int], layer: Layer) -> None:
    """UnsupportedAdapter if a file asks for a padded layer that is not the shape of its factors. ComfyUI would allocate
    whatever the file asks for."""
    sizes: list[Any] = list(widened) if isinstance(widened, (list, tuple)) else []
    own = layer.weight.shape
    fits = len(sizes) == len(own) and all(
        type(size) is int and size >= least for size, least in zip(sizes, own, strict=True)
    )
    if not fits or (sizes[0], math.prod(sizes[1:])) != shape or math.prod(sizes) > _MOST_WIDENED * math.prod(own):
        raise UnsupportedAdapter(
            f"its reshape_weight is expected to be the shape of its factors, {list(shape)}, and not much larger than "
            f"the layer's {list(own)}; found {sizes[:5]}"
        )


def _check_cores(patch: Any, shape: tuple[int, ...]) -> None:
    """UnsupportedAdapter if a Tucker core is larger than the layer: the product would be far larger than both."""
    longest = max(shape[0], math.prod(shape[1:]))
    cores = [patch.weights[index] for index in CORES.get(type(patch), ())]
    if any(core is not None and (core.ndim < 2 or max(core.shape[:2]) > longest) for core in cores):
        raise misfit(patch, shape)


def _lora(weights: Any) -> tuple[Callable[..., LowRankDelta], float]:
    rank, alpha = weights[DOWN].shape[0], weights[ALPHA]
    return (
        lambda up, down, alpha, mid, *_: kinds.lora(up, down, mid),
        1.0 if alpha is None else alpha / rank,
    )


def _loha(weights: Any) -> tuple[Callable[..., LowRankDelta], float]:
    rank, alpha = weights[DOWN].shape[0], weights[ALPHA]
    return (
        lambda w1_a, w1_b, alpha, w2_a, w2_b, t1, t2, *_: kinds.loha(w1_a, w1_b, w2_a, w2_b, t1, t2),
        1.0 if alpha is None else alpha / rank,
    )


def _lokr(weights: Any) -> tuple[Callable[..., LowRankDelta], float]:
    """As in ComfyUI, the rank is that of w2, else of w1; alpha is not used if both are full matrices."""
    _, _, alpha, _, w1_b, _, w2_b, *_ = weights
    rank = next((factor.shape[0] for factor in (w2_b, w1_b) if factor is not None), None)
    return (
        lambda w1, w2, alpha, w1_a, w1_b, w2_a, w2_b, t2, *_: kinds.lokr(
            kinds.kronecker_factor(w1, w1_a, w1_b), kinds.kronecker_factor(w2, w2_a, w2_b, t2)
        ),
        1.0 if alpha is None or rank is None else alpha / rank,
    )


# ComfyUI's adapter classes whose delta has exact factors, unless there is a DoRA scale.
_FACTORED: dict[type, Any] = {LoRAAdapter: _lora, LoHaAdapter: _loha, LoKrAdapter: _lokr}
