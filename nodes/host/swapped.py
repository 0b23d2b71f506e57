"""Finds out whether source and target are swapped: the base that a LoRA was transferred to has the target's weights."""

from collections.abc import Iterator

from ...core.errors import InvalidSetting
from ...core.layers import Layer
from .adapter.adapter import Adapter
from .adapter.base_clues import read_base_clues
from .adapter.metadata import PROVENANCE
from .base.from_model import HostBase
from .source_doubts import is_named, telling_names

_LAYERS = 12  # that are compared; fine-tunes leave many layers as they were, but not twelve of different roles
_SAME = 0.005  # relative distance of weights that are equal but for rounding to bfloat16
_OTHER = 0.15  # 4-bit weights lie about 0.1 from their originals; above, it is another model


def require_target(transferred: Adapter, source: HostBase, target: HostBase) -> tuple[str, ...]:
    """Notes on the models that a transferred LoRA is used between. InvalidSetting if it was made for the source model,
    because then the two models are swapped. A LoRA that was never transferred may be used on any model."""
    made_for = transferred.fits
    if made_for is None:
        if PROVENANCE in transferred.metadata:
            _require_names(transferred, source, target)
        return ()
    to_source, to_target = _distance(made_for, source), _distance(made_for, target)
    if to_source is not None and to_source < _SAME and (to_target is None or to_source < to_target):
        raise _swapped(transferred, made_for.name, source, target)
    if to_target is not None and to_target >= _OTHER:
        return (
            f"{transferred.name} was made for {made_for.name}, and the connected target model, {target.name}, has "
            "other weights",
        )
    return ()


def _require_names(transferred: Adapter, source: HostBase, target: HostBase) -> None:
    """A LoRA from a file says the name of its base, and nothing of its weights."""
    names = telling_names(read_base_clues(transferred.metadata))
    if is_named(names, source) and not is_named(names, target):
        raise _swapped(transferred, names[0].shown(), source, target)


def _swapped(transferred: Adapter, made_for: str, source: HostBase, target: HostBase) -> InvalidSetting:
    return InvalidSetting(
        f"Source and target model: expected {transferred.name} to be made for the target, {target.name}, found that it "
        f"was made for {made_for}, which is connected as the source ({source.name}). The two models are swapped: "
        "connect them the other way round."
    )


def _distance(first: HostBase, second: HostBase) -> float | None:
    """The largest ||W_1 - W_2|| / ||W_1|| of a few layers that both bases have; None without such a layer."""
    distances: list[float] = []
    for own, layer in _shared_layers(first, second):
        weight = first.read(own)
        size = float(weight.norm())
        distances.append(float((weight - second.read(layer)).norm()) / size if size > 0 else 0.0)
    return max(distances, default=None)


def _shared_layers(first: HostBase, second: HostBase) -> Iterator[tuple[Layer, Layer]]:
    """A few layers of the diffusion model, spread over depth and roles, that have the same name and shape in both."""
    shared = [
        (layer, second.layers[name])
        for name, layer in first.layers.items()
        if not layer.text_encoder and name in second.layers and layer.weight.shape == second.layers[name].weight.shape
    ]
    count = min(_LAYERS, len(shared))
    # The extra index changes the role, which would otherwise be the same in every step.
    yield from (shared[(index * len(shared) // count + index) % len(shared)] for index in range(count))
