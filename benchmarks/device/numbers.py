"""Every method on the device beside the processor, on layers of real shapes, each against float64."""

from collections.abc import Iterator, Mapping

import torch

from core.delta import LowRankDelta
from core.drift import compare_weights
from core.methods import METHODS, LayerPairBases
from core.resources import CPU, Resources
from core.subspace import RankRule, subspaces

from ..speed.ours import K, Run, transfer_layers
from ..speed.weights import FileBase, lora_on
from .bases import MIX, SMALL, write_pair
from .card import limited
from .parts import Row, Setting

BOUND = 2e-4  # relative error of a delta against float64: what core/linalg promises of float32
_TIMES = 4.0  # an error beyond the bound is a fault where it is so many times the processor's own
_SAME = 1e-6  # relative distance of two equal computations: that of taking the difference
_TOO_SMALL = 0.02  # gigabytes of a card that no layer fits


def rows(setting: Setting) -> Iterator[Row]:
    bases = write_pair(setting.folder, SMALL if setting.tiny else MIX, setting.device)
    deltas = lora_on(bases[0], 3)
    device = torch.device(setting.device)
    known = {name: _known(name, delta, *bases) for name, delta in deltas.items()}
    for method in METHODS:
        exact = {name: method.function(*one).delta for name, one in known.items()}
        errors = [
            _worst(_transferred(method.name, deltas, bases, where).transferred.deltas, exact) for where in (device, CPU)
        ]
        row: dict[str, object] = {"what": method.name, "error on the device": errors[0], "on the processor": errors[1]}
        yield row | {"bound": BOUND} | _fault(errors)
    yield from _besides(bases, deltas, device)


def _besides(
    bases: tuple[FileBase, FileBase], deltas: Mapping[str, LowRankDelta], device: torch.device
) -> Iterator[Row]:
    """Similarities; TensorFloat-32 switched on by somebody else; a card too small for any layer."""
    there, here = (_transferred("prolora", deltas, bases, where) for where in (device, CPU))
    phi = max(
        abs((there.comparison.layers[name][1].phi or 0) - (here.comparison.layers[name][1].phi or 0))
        for name in there.comparison.layers
    )
    yield {"what": "similarity, difference to the processor's", "value": phi, "limit": 1e-5} | _more_than(phi, 1e-5)
    torch.backends.cuda.matmul.allow_tf32 = True
    rough = _transferred("prolora", deltas, bases, device)
    torch.backends.cuda.matmul.allow_tf32 = False
    apart = _worst(rough.transferred.deltas, there.transferred.deltas)
    yield {"what": "with TensorFloat-32 on, difference", "value": apart, "limit": BOUND} | _more_than(apart, BOUND)
    using = Resources.on(device, 2, None, lambda done, total, layer: None)
    with limited(_TOO_SMALL):
        small = transfer_layers(*bases, deltas, using, method="prolora")
    apart = _worst(small.transferred.deltas, here.transferred.deltas)
    row: Row = {"what": "on a card too small, difference to the processor's", "value": apart, "limit": _SAME}
    missing = device.type == "cuda" and "memory" not in using.notes
    yield dict(row) | ({"fault": "no note says that memory ran out"} if missing else _more_than(apart, _SAME))


def _transferred(
    method: str, deltas: Mapping[str, LowRankDelta], bases: tuple[FileBase, FileBase], device: torch.device
) -> Run:
    using = Resources.on(device, 2, None, lambda done, total, layer: None)
    return transfer_layers(*bases, deltas, using, method=method)


def _known(name: str, delta: LowRankDelta, source: FileBase, target: FileBase) -> tuple[LowRankDelta, LayerPairBases]:
    """A delta and its pair of layers in float64 on the processor; the laws hold the formulas against the oracle."""
    weights = source.read(source.layers[name]).double(), target.read(target.layers[name]).double()
    wide = delta.to(dtype=torch.float64)
    _, drift = compare_weights(*weights, wide)
    return wide, LayerPairBases(subspaces=subspaces(*weights, RankRule("fixed", K)), drift=drift)


def _worst(found: Mapping[str, LowRankDelta], expected: Mapping[str, LowRankDelta]) -> float:
    wide = {name: delta.to(dtype=torch.float64) for name, delta in found.items()}
    return max(wide[name].minus(one.to(dtype=torch.float64)).norm() / one.norm() for name, one in expected.items())


def _fault(errors: list[float]) -> Row:
    device, processor = errors
    bad = not device <= max(BOUND, _TIMES * processor)
    return {"fault": f"expected at most {BOUND}, found {device:.1e}"} if bad else {}


def _more_than(value: float, limit: float) -> Row:
    return {} if value <= limit else {"fault": f"expected at most {limit:g}, found {value:.1e}"}
