"""Every reader of a LoRA file answers odd input with a value or one of our own sentences, never with a traceback."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.sd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from lora_transfer.core.errors import LoraTransferError, UnsupportedAdapter
from lora_transfer.core.reports.transfer import Identity, Report
from lora_transfer.nodes.host.adapter.adapter import Adapter, adapter_from_file, adapter_from_state_dict
from lora_transfer.nodes.host.adapter.apply import apply
from lora_transfer.nodes.host.adapter.metadata import (
    method_of,
    refined_metadata,
    scaled_metadata,
    transferred_metadata,
)
from lora_transfer.nodes.host.adapter.peft import peft_settings
from lora_transfer.nodes.host.adapter.read import read_adapter
from lora_transfer.nodes.host.adapter.write import SPELLINGS, to_state_dict
from lora_transfer.nodes.host.base.from_file import base_from_file
from lora_transfer.nodes.host.base.from_model import HostBase
from lora_transfer.nodes.host.refine.prompt_list import choose_prompts
from tests.host.conftest import SmallPair
from tests.host.fuzz.strategies import JSON, NUMBERS, WORDS, WRITTEN, dictionary, odd_modules, odd_tensors
from tests.host.test_bad_modules import GOOD, LAYER, LORA, MODULE, module

PATTERNS = st.one_of(
    WORDS, st.sampled_from(["^to_k", "attn2.to_k", "*", "(", r"([\w.]+)+!", "to_[kq]", r"attn2\.to_k$", "^"])
)
PEFT_ENTRIES = ("lora_alpha", "r", "alpha", "use_rslora", "use_dora", "alpha_pattern", "rank_pattern", "peft_type")
PEFT = module({".lora_B.weight": torch.ones(320, 4), ".lora_A.weight": torch.ones(4, 768)})


@pytest.fixture(scope="module")
def small(pair: SmallPair) -> Callable[[], HostBase]:
    """A small base; behind a function, for hypothesis prints every argument of a failing case."""
    base = base_from_file(pair.source, "small")
    return lambda: base


@pytest.fixture(scope="module")
def model(pair: SmallPair) -> Any:
    return comfy.sd.load_diffusion_model(str(pair.source))


@contextlib.contextmanager
def a_value_or_a_sentence() -> Iterator[None]:
    """Accepts our own errors if they are a single line; any other error fails the test."""
    sentence = "nothing was raised"
    try:
        yield
    except LoraTransferError as error:
        sentence = str(error)
    assert sentence
    assert "\n" not in sentence


@given(made=odd_modules(MODULE), spelling=st.sampled_from(list(SPELLINGS)))
def test_an_odd_module_never_stops_a_file_and_every_key_has_its_place(
    small: Callable[[], HostBase], made: dict[str, Tensor], spelling: str
) -> None:
    tensors = made | GOOD
    placed = read_adapter(Adapter("odd", "here", {}, tensors=tensors), small())
    counted = [key for part in (placed.modules, placed.vectors, placed.skipped) for one in part for key in one.keys]
    assert sorted([*counted, *placed.unread]) == sorted(tensors)
    assert "time_embed.0" in placed.deltas
    with a_value_or_a_sentence():
        to_state_dict(placed.deltas, placed.scales, small(), spelling, placed.vectors, placed.widened())


@given(made=st.dictionaries(st.one_of(WORDS, WORDS.map(lambda end: MODULE + end)), odd_tensors(), max_size=4))
def test_odd_keys_never_stop_a_file(small: Callable[[], HostBase], made: dict[str, Tensor]) -> None:
    placed = read_adapter(Adapter("odd", "here", {}, tensors=GOOD | made), small())
    assert "time_embed.0" in placed.deltas or made.keys() & GOOD.keys()


@given(made=odd_modules(MODULE))
def test_an_odd_module_is_applied_or_reported(model: Any, made: dict[str, Tensor]) -> None:
    applied = apply(adapter_from_state_dict(made | GOOD, "odd"), model, None, 1.0, 0.0)
    assert applied.keys + len(applied.not_applied) == len(made | GOOD)
    assert not applied.not_applied.keys() & GOOD.keys()


NUMBERED = st.tuples(
    st.sampled_from(["unet", "text_encoder", "vae", ""]),
    st.one_of(st.sampled_from(["0", "1", "127", "128", "-1", "1e9", "²", "٣", "9" * 30]), WORDS),
    st.sampled_from(["up", "down", "mid", ""]),
).map(":".join)


@given(made=st.dictionaries(NUMBERED, odd_tensors(), max_size=6))
def test_odd_numbered_keys_are_left_out_or_refused_in_a_sentence(
    small: Callable[[], HostBase], made: dict[str, Tensor]
) -> None:
    adapter, reason = Adapter("odd", "here", {}, tensors=GOOD | made), ""
    try:
        assert "time_embed.0" in read_adapter(adapter, small()).deltas
    except UnsupportedAdapter as refusal:  # no order of the modules fits: read in part they would be wrong
        reason = str(refusal)
    assert not reason or "numbered modules" in reason


def settings_of_peft() -> st.SearchStrategy[str]:
    keys = st.builds(
        lambda part, name: part + name,
        st.sampled_from(["", "unet.", "text_encoder.", "x."]),
        st.one_of(st.sampled_from(PEFT_ENTRIES), WORDS),
    )
    return st.one_of(dictionary(keys, st.one_of(NUMBERS, JSON, st.dictionaries(PATTERNS, JSON, max_size=3))), WRITTEN)


PEFT_PLACES = st.sampled_from(
    ["lora_adapter_metadata", "adapter_config", "lora_alpha", "alpha", "network_alpha", "rank"]
)


@given(metadata=st.dictionaries(PEFT_PLACES, settings_of_peft(), min_size=1, max_size=3))
def test_odd_settings_of_peft_give_a_scale_or_a_sentence(
    small: Callable[[], HostBase], metadata: dict[str, str]
) -> None:
    with a_value_or_a_sentence():
        peft_settings(metadata, "odd")
    with a_value_or_a_sentence():
        placed = read_adapter(Adapter("odd", "here", metadata, tensors=PEFT | GOOD), small())
        for layer in placed.layers():
            assert bool(torch.isfinite(placed.deltas[layer].up).all())


TAGS = st.one_of(dictionary(WORDS, st.one_of(JSON, st.dictionaries(WORDS, NUMBERS, max_size=12))), WRITTEN)


@given(
    tags=TAGS,
    trigger=st.one_of(st.none(), WORDS.filter(lambda words: words != "\ud800")),
    count=st.integers(1, 9),
    seed=st.integers(0, 2**63),
)
def test_odd_tags_and_trigger_words_give_prompts(tags: str, trigger: str | None, count: int, seed: int) -> None:
    metadata = {"ss_tag_frequency": tags} | ({} if trigger is None else {"modelspec.trigger_phrase": trigger})
    with a_value_or_a_sentence():
        chosen = choose_prompts("", metadata, count, seed)
        assert 1 <= len(chosen.prompts) <= count
        assert all(prompt.encode() for prompt in chosen.prompts)


ENTRIES = st.sampled_from(
    [
        "lora_transfer",
        "ss_network_args",
        "ss_network_module",
        "ss_network_dim",
        "ss_sd_model_name",
        "modelspec.hash_sha256",
    ]
)
OWN = dictionary(
    st.sampled_from(["refined", "scaled_by", "settings", "before", "steps", "method"]),
    st.one_of(JSON, st.dictionaries(st.sampled_from(["steps", "method", "settings"]), JSON, max_size=2)),
)


TEXT = st.one_of(OWN, WRITTEN).filter(lambda written: written.isascii() or written.isprintable())  # as in every file


@given(metadata=st.dictionaries(ENTRIES, TEXT, max_size=4))
def test_odd_metadata_go_into_a_saved_file_or_are_reported(
    small: Callable[[], HostBase], metadata: dict[str, str]
) -> None:
    identity = Identity("x", "y")
    report = Report("transfer", identity, identity, identity, {"measure": "subspace"}, (), ())
    tensors = module({**LORA, ".alpha": torch.tensor(4.0)})
    for written in (
        lambda: transferred_metadata(metadata, tensors, report, small()),
        lambda: refined_metadata(metadata, tensors, {"steps": 3}, small()),
        lambda: scaled_metadata(metadata, tensors, 0.5),
    ):
        with a_value_or_a_sentence():
            save({"x": torch.ones(1)}, written())
    method = method_of(metadata)
    assert method is None or isinstance(method, str)


HELD = st.recursive(
    st.one_of(odd_tensors(), NUMBERS, WORDS, st.none(), st.binary(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(WORDS, st.sampled_from(["state_dict", "lora", *LORA]), st.integers(0, 3)), inner, max_size=4
        ),
        st.tuples(inner, inner),
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("odd")


def read(path: Path, base: HostBase) -> None:
    with a_value_or_a_sentence():
        adapter = adapter_from_file(path, path.name)
        read_adapter(adapter, base)


@given(held=HELD)
def test_an_odd_pickle_is_read_or_reported(small: Callable[[], HostBase], folder: Path, held: Any) -> None:
    torch.save(held, folder / "odd.pt")
    read(folder / "odd.pt", small())


@given(
    change=st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=4)), max_size=4), cut=st.integers()
)
def test_a_damaged_pickle_is_read_or_reported(
    small: Callable[[], HostBase], folder: Path, change: list[Any], cut: int
) -> None:
    torch.save({"a.lora_up.weight": torch.ones(3, 2), "a.lora_down.weight": torch.ones(2, 3)}, folder / "whole.pt")
    (folder / "damaged.pt").write_bytes(damaged((folder / "whole.pt").read_bytes(), change, cut))
    read(folder / "damaged.pt", small())


@given(
    plain=st.binary(max_size=60),
    start=st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04", b"\x80\x02}q\x00X\x01\x00\x00\x00a"]),
    end=st.sampled_from(["pt", "bin", "ckpt", "pth", "safetensors"]),
)
def test_odd_bytes_are_read_or_reported(
    small: Callable[[], HostBase], folder: Path, plain: bytes, start: bytes, end: str
) -> None:
    (folder / f"bytes.{end}").write_bytes(start + plain)
    read(folder / f"bytes.{end}", small())


@given(
    change=st.lists(st.tuples(st.integers(0, 600), st.binary(min_size=1, max_size=4)), max_size=4), cut=st.integers()
)
def test_a_damaged_safetensors_file_is_read_or_reported(
    small: Callable[[], HostBase], folder: Path, change: list[Any], cut: int
) -> None:
    cut_off = {key: value[:2, :2].contiguous() for key, value in (PEFT | GOOD).items()}
    whole = save(cut_off, {"lora_adapter_metadata": '{"unet.lora_alpha": 8}', "ss_tag_frequency": "{}"})
    (folder / "damaged.safetensors").write_bytes(damaged(whole, change, cut))
    read(folder / "damaged.safetensors", small())


def damaged(whole: bytes, change: list[tuple[int, bytes]], cut: int) -> bytes:
    """The bytes with a few others in their place, and in every second case cut short."""
    made = bytearray(whole)
    for start, other in change:
        made[start : start + len(other)] = other
    return bytes(made[: cut % len(made)] if cut % 2 else made)


def test_the_layer_of_the_odd_modules_is_one_of_the_base(small: Callable[[], HostBase]) -> None:
    assert small().layers[LAYER].weight.shape == (320, 768)
