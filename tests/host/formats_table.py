"""The table in docs/formats.md, made of what the reader does: every kind on every family, under every kind of name."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from lora_transfer.core.errors import UnsupportedAdapter
from lora_transfer.nodes.host.adapter.adapter import Adapter
from lora_transfer.nodes.host.adapter.read import read_adapter
from lora_transfer.nodes.host.adapter.unread_kinds import MARKS, names_unread_kind
from lora_transfer.nodes.host.base.from_model import HostBase
from lora_transfer.nodes.host.base.names import layer_name, slice_of

DOCUMENT = Path(__file__).parents[2] / "docs/formats.md"
_START, _END = "<!-- table: made by tests/host/test_formats.py -->", "<!-- end of table -->"


def prefixes_in_the_document() -> tuple[str, ...]:
    """The prefixes that docs/formats.md lists."""
    part = re.search(r"<!-- prefixes -->(.*)<!-- end of prefixes -->", DOCUMENT.read_text(), re.DOTALL)
    assert part is not None
    return tuple(re.findall(r"^\| `(\S+)`", part[1], re.MULTILINE))


def _meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def _pair(up: str, down: str) -> Callable[[int, int], dict[str, Tensor]]:
    return lambda rows, columns: {up: _meta(rows, 4), down: _meta(4, columns)}


_LORA = _pair(".lora_up.weight", ".lora_down.weight")
_PEFT = _pair(".lora_B.weight", ".lora_A.weight")


def _loha(rows: int, columns: int) -> dict[str, Tensor]:
    return {
        f".hada_w{n}_{end}": _meta(*shape) for n in (1, 2) for end, shape in (("a", (rows, 4)), ("b", (4, columns)))
    }


def _glora(rows: int, columns: int) -> dict[str, Tensor]:
    shapes = {"a1": (columns, 4), "a2": (4, columns), "b1": (rows, 4), "b2": (4, columns)}
    return {f".{name}.weight": _meta(*shape) for name, shape in shapes.items()}


# Kind that is not read -> the first of the keys that tell it; IA3 as LyCORIS has it stands in the table below.
_ONE_MARK = {kind: mark for mark, kind in reversed(MARKS.items()) if kind != "IA3"}

# Kind -> the tensors of a module on a layer of (rows, columns), by the end of their keys.
KINDS: dict[str, Callable[[int, int], dict[str, Tensor]]] = {
    "LoRA, `.lora_up.weight` and `.lora_down.weight`": lambda m, n: {**_LORA(m, n), ".alpha": torch.tensor(2.0)},
    "LoRA, `.lora_B.weight` and `.lora_A.weight`": _PEFT,
    "LoRA, `.lora_B` and `.lora_A`": _pair(".lora_B", ".lora_A"),
    "LoRA, `.lora_B.NAME.weight` and `.lora_A.NAME.weight`": _pair(".lora_B.name.weight", ".lora_A.name.weight"),
    "LoRA, `.lora.up.weight` and `.lora.down.weight`": _pair(".lora.up.weight", ".lora.down.weight"),
    "LoRA, `_lora.up.weight` and `_lora.down.weight`": _pair("_lora.up.weight", "_lora.down.weight"),
    "LoRA, `.lora_linear_layer.up.weight` and `.down.weight`": _pair(
        ".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"
    ),
    "LoRA, `.lora_up` and `.lora_down`": _pair(".lora_up", ".lora_down"),
    "LoRA, `_lora_up.weight` and `_lora_down.weight`": _pair("_lora_up.weight", "_lora_down.weight"),
    "DoRA, `.dora_scale` per output": lambda m, n: {**_LORA(m, n), ".dora_scale": _meta(m, 1)},
    "DoRA, `.dora_scale` per input": lambda m, n: {**_LORA(m, n), ".dora_scale": _meta(1, n)},
    "DoRA, `.lora_magnitude_vector`": lambda m, n: {**_PEFT(m, n), ".lora_magnitude_vector": _meta(m)},
    "DoRA, `.magnitude`": lambda m, n: {**_PEFT(m, n), ".magnitude": _meta(m)},
    "LoHa": _loha,
    "LoKr, full `.lokr_w1`": lambda m, n: {
        ".lokr_w1": _meta(2, 2),
        ".lokr_w2_a": _meta(m // 2, 4),
        ".lokr_w2_b": _meta(4, n // 2),
    },
    "LoKr, two full matrices": lambda m, n: {".lokr_w1": _meta(2, 2), ".lokr_w2": _meta(m // 2, n // 2)},
    "GLoRA": _glora,
    "OFT, `.oft_blocks` of three dimensions": lambda m, n: {
        ".oft_blocks": _meta(2, m // 2, m // 2),
        ".alpha": torch.tensor(0.0),
    },
    "T-LoRA, `.lambda_layer`": lambda m, n: {
        ".p_layer.weight": _meta(m, 4),
        ".q_layer.weight": _meta(4, n),
        ".lambda_layer": _meta(1, 4),
        ".alpha": torch.tensor(2),
    },
    "full difference, `.diff`": lambda m, n: {".diff": _meta(m, n)},
    "replaced weight, `.set_weight`": lambda m, n: {".set_weight": _meta(m, n)},
    "IA3, `.on_input`": lambda m, n: {".weight": _meta(1, n), ".on_input": torch.tensor(True)},
    **{
        f"{kind}, `.{mark}`": lambda m, n, mark=mark: {**_PEFT(m, n), f".{mark}": _meta(4)}
        for kind, mark in _ONE_MARK.items()
    },
}


def cells_of(base: HostBase, family: str, diffusers: list[str]) -> dict[str, dict[str, str]]:
    """Kind -> way to call a layer -> `read`, the reason why not, or `-` where the family has no such layer."""
    ways = dict(_ways(base, diffusers))
    return {
        kind: {way: _outcome(base, names, index, kind) for way, names in ways.items()}
        for index, kind in enumerate(KINDS)
    }


def _ways(base: HostBase, diffusers: list[str]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(way to call a layer, [(name, layer), ...]) with layers on which every kind is possible."""
    own = [name for name in base.layers if slice_of(name)[0] is None and _is_fit(base, name)]
    yield "own name", [(f"diffusion_model.{name}", name) for name in own]
    yield "own name, underscored", [(f"lora_unet_{name.replace('.', '_')}", name) for name in own]
    named = [(name, base.names.module_of(f"{name}.lora_A.weight")[0]) for name in diffusers]
    layers = [(f"transformer.{name}", layer_name(base.key_map[found])) for name, found in named if found is not None]
    fitting = [(name, layer) for name, layer in layers if _is_fit(base, layer)]
    yield "diffusers' name", [(name, layer) for name, layer in fitting if slice_of(layer)[0] is None]
    yield "diffusers' name of rows", [(name, layer) for name, layer in fitting if slice_of(layer)[0] is not None]


def _is_fit(base: HostBase, layer: str) -> bool:
    shape = base.layers[layer].weight.shape if layer in base.layers else ()
    return len(shape) == 2 and not any(size % 4 or size < 64 for size in shape)


def _outcome(base: HostBase, names: list[tuple[str, str]], index: int, kind: str) -> str:
    if not names:
        return "-"
    name, layer = names[index % len(names)]
    tensors = {name + end: tensor for end, tensor in KINDS[kind](*base.layers[layer].weight.matrix_shape).items()}
    try:
        placed = read_adapter(Adapter("table", "here", {}, tensors=tensors), base)
    except UnsupportedAdapter as error:
        return "not read" if names_unread_kind(str(error).rstrip(".")) else _plain(str(error), name, layer)
    if placed.skipped or placed.unread:
        reasons = [skipped.reason for skipped in placed.skipped] + list(placed.unread.values())
        return f"in part: {_plain(reasons[0], name, layer)}"
    return "read"


def _plain(sentence: str, name: str, layer: str) -> str:
    """A reason without what belongs to this layer alone."""
    reason = re.sub(rf".*?The first, {re.escape(layer)}: ", "", sentence)
    reason = re.sub(r" If the base is the one that.*", "", reason).replace(name, "NAME").replace(layer, "LAYER")
    reason = re.sub(r" for .*? \(.*?\)", " for BASE", reason) if reason.startswith("LoRA") else reason
    return re.sub(r"\[[\d, ]+\]", "[...]", reason).rstrip(".").replace("|", "/")


def table(cells: dict[str, dict[str, dict[str, str]]]) -> str:
    """Markdown of family -> kind -> way -> outcome; families of the same row share it. A family without a way to call
    a layer (`-`) belongs to the row that says the same of the others."""
    ways = list(next(iter(next(iter(cells.values())).values())))
    lines = [f"| kind | families | {' | '.join(ways)} |", "|---" * (len(ways) + 2) + "|"]
    for kind in KINDS:
        found = {family: tuple(cells[family][kind][way] for way in ways) for family in cells}
        rows: dict[tuple[str, ...], list[str]] = {}
        for row in sorted(found.values(), key=lambda row: row.count("-")):
            if not any(_agree(row, other) for other in rows):
                rows[row] = []
        for family, row in found.items():
            rows[next(other for other in rows if _agree(row, other))].append(family)
        most = max(rows, key=lambda row: len(rows[row]))
        for row, families in sorted(rows.items(), key=lambda item: item[0] != most):
            who = ("all" if len(rows) == 1 else "all others") if row == most else ", ".join(families)
            lines.append(f"| {kind} | {who} | {' | '.join(row)} |")
    return "\n".join(lines)


def _agree(row: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return all(one in ("-", another) for one, another in zip(row, other, strict=True))


def table_in_the_document() -> str:
    return DOCUMENT.read_text().partition(_START)[2].partition(_END)[0].strip()


def write_into_the_document(made: str) -> None:
    before, _, rest = DOCUMENT.read_text().partition(_START)
    DOCUMENT.write_text(f"{before}{_START}\n\n{made}\n\n{_END}{rest.partition(_END)[2]}")
