"""Small files that ask for much: what a stranger could put on a model site. Each writer makes one file.

`HOSTILE` names them; the sentence is what the pack is expected to say, of the file or of its one bad module.
"""

import collections
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

MODULE = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"  # (640, 768)
CONV_OUT = "lora_unet_conv_out"  # (4, 320, 3, 3)
DEEP = "[" * 100_000 + "]" * 100_000

GOOD = {f"{MODULE}.lora_up.weight": torch.ones(640, 4).half(), f"{MODULE}.lora_down.weight": torch.ones(4, 768).half()}


def _tensors(tensors: dict[str, Tensor], **metadata: str) -> Callable[[], bytes]:
    return lambda: save({key: value.contiguous() for key, value in tensors.items()}, metadata or None)


def _module(name: str = MODULE, **tensors: Tensor) -> Callable[[], bytes]:
    return lambda: save({f"{name}.{end.replace('__', '.')}": value.half() for end, value in tensors.items()})


def _header(written: Any, values: int = 0) -> Callable[[], bytes]:
    def content() -> bytes:
        text = written if isinstance(written, bytes) else json.dumps(written).encode()
        return struct.pack("<Q", len(text)) + text + bytes(values)

    return content


def _entry(shape: list[int], start: int, end: int, dtype: str = "F16") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def _torch(held: Any, **settings: Any) -> Callable[[], bytes]:
    def content() -> bytes:
        stream = io.BytesIO()
        torch.save(held, stream, **settings)
        return stream.getvalue()

    return content


def _deflated() -> bytes:
    """A LoRA's archive with its zeros compressed a thousand times."""
    stored, packed = io.BytesIO(), io.BytesIO()
    torch.save({f"{MODULE}.lora_up.weight": torch.zeros(200_000_000, dtype=torch.uint8)}, stored)
    with zipfile.ZipFile(stored) as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for record in plain.infolist():
            archive.writestr(record.filename, plain.read(record))
    return packed.getvalue()


def _claims_more() -> bytes:
    """An archive whose pickle says that a storage of four numbers has two hundred."""
    stored, edited = io.BytesIO(), io.BytesIO()
    torch.save({"x": torch.ones(4)}, stored)
    with zipfile.ZipFile(stored) as plain, zipfile.ZipFile(edited, "w") as archive:
        for record in plain.infolist():
            held = plain.read(record)
            if record.filename.endswith("data.pkl"):
                old = b"cpuq\x12K\x04t" if b"cpuq\x12K\x04t" in held else b"K\x04t"
                held = held.replace(old, old[:-3] + b"J" + struct.pack("<i", 200) + b"t")
            archive.writestr(record.filename, held)
    return edited.getvalue()


def _without_its_start(archive: bytes) -> bytes:
    """An archive whose table of contents points before the beginning of the file."""
    return archive[:4] + archive[100:]


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code of the file ran",))


def _in_archive(pickled: bytes) -> Callable[[], bytes]:
    def content() -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("archive/data.pkl", pickled)
            archive.writestr("archive/version", "3")
        return stream.getvalue()

    return content


def _doubled_tuples() -> bytes:
    """(t, t), sixty times nested, as a key: its hash takes 2^60 steps."""
    doubled = b"(lq\x00" + b"".join(b"h\x00h\x00\x86q\x00" for _ in range(60))
    return b"\x80\x02}" + doubled + b"K\x01s."


_VALUES = torch.ones(500_000)
_TUCKER = {"lora_up__weight": torch.ones(4, 300_000, 1, 1), "lora_mid__weight": torch.ones(300_000, 1, 3, 3)}
_LOHA = {f"hada_w{i}_{end}": torch.ones(shape) for i in (1, 2) for end, shape in (("a", (640, 700)), ("b", (700, 768)))}
_LOKR = {"lokr_w1_a": torch.ones(32, 2000), "lokr_w1_b": torch.ones(2000, 32)}
_LOKR |= {"lokr_w2_a": torch.ones(20, 2000), "lokr_w2_b": torch.ones(2000, 24)}
_LORA = {"lora_up__weight": torch.ones(640, 4), "lora_down__weight": torch.ones(4, 768)}

# name of the file: (its content, what is said)
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    # metadata
    "trigger.safetensors": (_tensors(GOOD, **{"modelspec.trigger_phrase": "a " * 500_000}), "placed 1"),
    "tags.safetensors": (
        _tensors(GOOD, ss_tag_frequency=json.dumps({"d": {f"t{i}": 1 for i in range(400_000)}})),
        "placed 1",
    ),
    "long_tags.safetensors": (
        _tensors(GOOD, ss_tag_frequency=json.dumps({"d": {"x" * 300_000 + str(i): 1 for i in range(10)}})),
        "placed 1",
    ),
    "deep_tags.safetensors": (_tensors(GOOD, ss_tag_frequency=DEEP), "placed 1"),
    "deep_origin.safetensors": (_tensors(GOOD, lora_transfer=DEEP), "placed 1"),
    "deep_origin_900.safetensors": (_tensors(GOOD, lora_transfer="[" * 900 + "]" * 900), "placed 1"),
    "deep_arguments.safetensors": (_tensors(GOOD, ss_network_args=DEEP), "placed 1"),
    "long_number.safetensors": (_tensors(GOOD, lora_transfer='{"scaled_by": ' + "9" * 100_000 + "}"), "placed 1"),
    "large_number.safetensors": (_tensors(GOOD, lora_transfer='{"scaled_by": ' + "9" * 4_000 + "}"), "placed 1"),
    "word_as_steps.safetensors": (_tensors(GOOD, lora_transfer='{"refined": {"steps": "x"}}'), "placed 1"),
    # headers
    "promises.safetensors": (lambda: struct.pack("<Q", 1 << 62) + b"{}", "should have"),
    "large_header.safetensors": (_header({"__metadata__": {"x": "y" * 17_000_000}}), "more than the limit of"),
    "many_words.safetensors": (
        lambda: _header(b'{"__metadata__":{' + b",".join(b'"%x":""' % i for i in range(500_000)) + b"}}")(),
        "strings",
    ),
    "deep_header.safetensors": (_header(DEEP.encode()), "nested too deep"),
    "huge_shape.safetensors": (_header({f"{MODULE}.alpha": _entry([1 << 40, 1 << 40], 0, 4)}, 4), "should have"),
    "many_dimensions.safetensors": (_header({f"{MODULE}.alpha": _entry([1] * 100_000, 0, 2)}, 2), "dimensions"),
    "overlap.safetensors": (
        _header({f"a{i}.alpha": _entry([1000], 0, 2000) for i in range(100)}, 2000),
        "begins at byte",
    ),
    "doubled.safetensors": (
        _header(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},' * 2 + b'"b":{}}', 1),
        "expected a whole",
    ),
    "negative.safetensors": (_header({"a": _entry([-4, -1], 0, 8)}, 8), "has no valid dtype, shape"),
    "many_keys.safetensors": (_header({f"a{i}": _entry([0], 0, 0) for i in range(90_000)}), "tensors, more than"),
    "tiny_modules.safetensors": (
        _header(
            {f"lora_unet_{i}_x_{i}.lora_up.weight": _entry([1, 1], 2 * i, 2 * i + 2) for i in range(29_000)}, 58_000
        ),
        "none names a layer",
    ),
    "dots.safetensors": (_tensors({"." * 200_000: torch.ones(1)}), "a name of 200,000 characters"),
    "underscores.safetensors": (_tensors({**GOOD, "lora_unet_" * 20_000 + ".alpha": torch.ones(1)}), "a name of"),
    "short_dots.safetensors": (
        _tensors({**GOOD, **{f"{i}" + "." * 500: torch.ones(1) for i in range(8_000)}}),
        "placed 1",
    ),
    # modules
    "loha.safetensors": (_module(**_LOHA), "placed 1"),
    "lokr.safetensors": (_module(**_LOKR), "placed 1"),
    "tucker.safetensors": (_module(CONV_OUT, **_TUCKER, lora_down__weight=torch.ones(1, 320, 1, 1)), "fit"),
    "tucker_3000.safetensors": (
        _module(
            CONV_OUT,
            lora_up__weight=torch.ones(4, 2800, 1, 1),
            lora_mid__weight=torch.ones(2800, 1, 3, 3),
            lora_down__weight=torch.ones(1, 320, 1, 1),
        ),
        "placed 1",
    ),
    "loha_tucker.safetensors": (
        _module(
            CONV_OUT,
            **{f"hada_w{i}_a": torch.ones(100_000, 4) for i in (1, 2)},
            **{f"hada_w{i}_b": torch.ones(1, 320) for i in (1, 2)},
            **{f"hada_t{i}": torch.ones(100_000, 1, 3, 3) for i in (1, 2)},
        ),
        "fit",
    ),
    "large_rank.safetensors": (
        _module(CONV_OUT, lora_up__weight=torch.ones(4, 30_000, 1, 1), lora_down__weight=torch.ones(30_000, 320, 3, 3)),
        "placed 1",
    ),
    "padded.safetensors": (
        lambda: save({**GOOD, f"{MODULE}.reshape_weight": torch.tensor([1 << 20, 1 << 20])}),
        "reshape_weight",
    ),
    "padded_negative.safetensors": (
        lambda: save({**GOOD, f"{MODULE}.reshape_weight": torch.tensor([-640, 768])}),
        "reshape_weight",
    ),
    "padded_long.safetensors": (
        lambda: save({**GOOD, f"{MODULE}.reshape_weight": torch.ones(500_000, dtype=torch.int64)}),
        "reshape_weight",
    ),
    "alphas.safetensors": (_module(**_LORA, alpha=torch.ones(1_000_000)), "alpha is expected to be one number"),
    "no_alpha.safetensors": (_module(**_LORA, alpha=torch.ones(0)), "alpha is expected to be one number"),
    "nan_alpha.safetensors": (_module(**_LORA, alpha=torch.tensor(float("nan"))), "NaN or infinity"),
    "large_alpha.safetensors": (
        lambda: save({**GOOD, f"{MODULE}.alpha": torch.tensor(3e38)}),
        "scale",
    ),
    "nan_dora.safetensors": (_module(**_LORA, dora_scale=torch.full((640, 1), float("nan"))), "NaN or infinity"),
    "boft.safetensors": (
        _module(oft_blocks=torch.zeros(20_000, 1, 2, 2), alpha=torch.tensor(1.0)),
        "expected its boft to fit",
    ),
    # pickles
    "stride.pt": (_torch({f"{MODULE}.lora_up.weight": torch.zeros(1).expand(60_000, 60_000)}), "has only 1 stored"),
    "views.pt": (
        _torch({f"v{i}": _VALUES[i:] for i in range(200)}),
        "its tensors would take",
    ),
    "bomb.pt": (_deflated, "compressed"),
    "claims.pt": (_claims_more, "does not contain"),
    "code.pt": (_torch({"a": _Runs()}), "which could run code"),
    "tuples.pt": (_in_archive(_doubled_tuples()), "does not belong in a file of tensors"),
    "deep.pt": (_in_archive(b"\x80\x02" + b"]" * 400_000 + b"a" * 399_999 + b"."), "steps"),
    "memo.pt": (_in_archive(b"\x80\x02}r\xff\xff\xff\x7f."), "empty file"),
    "large_int.pt": (
        _in_archive(b"\x80\x02}\x8b" + struct.pack("<i", 1_000_000) + b"\x7f" * 1_000_000 + b"K\x01s."),
        "step",
    ),
    "promised_bytes.pt": (_in_archive(b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x."), "LoRA"),
    "legacy_stride.bin": (
        _torch(
            {f"{MODULE}.lora_up.weight": torch.zeros(1).expand(60_000, 60_000)}, _use_new_zipfile_serialization=False
        ),
        "has only 1 stored",
    ),
    "legacy_promise.bin": (lambda: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 36) + b"x.", "LoRA"),
    "zip_offset.pt": (lambda: _without_its_start(_torch(GOOD)()), "LoRA"),
    "tar.pt": (lambda: b"tar" + bytes(10_000), "LoRA"),
    "protocol_0.pt": (lambda: pickle.dumps(collections.OrderedDict(a=1), 0), "LoRA"),
}
