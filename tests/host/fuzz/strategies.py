"""What the fuzz tests draw from: odd values of JSON, and odd tensors under the keys that LoRA files have."""

import json

import torch
from hypothesis import strategies as st
from torch import Tensor

NUMBERS = st.one_of(
    st.integers(-2, 64),
    st.sampled_from([10**400, -(10**400), float("nan"), float("inf"), float("-inf"), 1e308, 0.0, 1e-320, True, False]),
    st.floats(),
)
WORDS = st.one_of(st.text(max_size=12), st.sampled_from(["", "8", "nan", "x.y", "null", "²", "\ud800", "\x00"]))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=4)),
    max_leaves=8,
)
WRITTEN = st.one_of(JSON.map(json.dumps), WORDS, st.sampled_from(["[" * 3000, '{"a":' * 3000, "9" * 5000]))


def dictionary(keys: st.SearchStrategy[str], values: st.SearchStrategy[object]) -> st.SearchStrategy[str]:
    """JSON objects under keys that a reader looks for, with values that it does not expect."""
    return st.dictionaries(keys, values, max_size=5).map(json.dumps)


SHAPES = st.one_of(
    st.sampled_from(
        [
            *[(), (0,), (1,), (2,), (4,), (320,), (768,)],
            *[(320, 4), (4, 768), (4, 320), (768, 4), (320, 768), (320, 1), (1, 768), (1, 4), (4, 1), (4, 4), (8, 8)],
            *[
                (320, 0),
                (0, 768),
                (40, 96),
                (320, 4, 1, 1),
                (4, 768, 1, 1),
                (4, 4, 3, 3),
                (32, 10, 10),
                (2, 32, 10, 10),
            ],
        ]
    ),
    st.lists(st.integers(0, 5), max_size=5).map(tuple),
)
DTYPES = st.sampled_from(
    [
        *[torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2],
        *[torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64],
    ]
)
FILLS = st.sampled_from([0.0, 1.0, -1.0, 0.01, 320.0, 768.0, 3e38, float("nan"), float("inf"), float("-inf")])


@st.composite
def odd_tensors(draw: st.DrawFn) -> Tensor:
    """A tensor of any shape and dtype; what a dtype cannot hold becomes zeros."""
    shape, dtype, fill = draw(SHAPES), draw(DTYPES), draw(FILLS)
    if not (dtype.is_floating_point or dtype.is_complex):
        fill = fill if abs(fill) < 100 else 0.0
    return torch.full(shape, fill, dtype=torch.complex64 if dtype.is_complex else torch.float64).to(dtype)


ONE = torch.tensor(1.0)
KINDS: dict[str, dict[str, Tensor]] = {
    "LoRA": {".lora_up.weight": torch.ones(320, 4), ".lora_down.weight": torch.ones(4, 768), ".alpha": ONE},
    "PEFT": {".lora_B.weight": torch.ones(320, 4), ".lora_A.weight": torch.ones(4, 768)},
    "DoRA": {
        ".lora_up.weight": torch.ones(320, 4),
        ".lora_down.weight": torch.ones(4, 768),
        ".dora_scale": torch.ones(320, 1),
    },
    "PEFT DoRA": {
        ".lora_B.weight": torch.ones(320, 4),
        ".lora_A.weight": torch.ones(4, 768),
        ".lora_magnitude_vector": torch.ones(320),
    },
    "LoHa": {
        ".hada_w1_a": torch.ones(320, 4),
        ".hada_w1_b": torch.ones(4, 768),
        ".hada_w2_a": torch.ones(320, 4),
        ".hada_w2_b": torch.ones(4, 768),
        ".alpha": ONE,
    },
    "LoKr": {".lokr_w1": torch.ones(8, 8), ".lokr_w2_a": torch.ones(40, 4), ".lokr_w2_b": torch.ones(4, 96)},
    "LoKr of full matrices": {".lokr_w1": torch.ones(8, 8), ".lokr_w2": torch.ones(40, 96)},
    "GLoRA": {
        ".a1.weight": torch.ones(768, 4),
        ".a2.weight": torch.ones(4, 768),
        ".b1.weight": torch.ones(320, 4),
        ".b2.weight": torch.ones(4, 768),
    },
    "OFT": {".oft_blocks": torch.zeros(32, 10, 10), ".alpha": ONE},
    "BOFT": {".oft_blocks": torch.zeros(2, 32, 10, 10), ".alpha": ONE},
    "a difference": {".diff": torch.ones(320, 768), ".diff_b": torch.ones(320)},
    "a replaced weight": {".set_weight": torch.ones(320, 768)},
}
ENDS = sorted(
    {
        *(end for kind in KINDS.values() for end in kind),
        *(
            ".lora_mid.weight",
            ".reshape_weight",
            ".w_norm",
            ".b_norm",
            ".hada_t1",
            ".hada_t2",
            ".lokr_t2",
            ".lokr_w1_a",
        ),
        *(".lokr_w1_b", ".magnitude", ".lora_E", ".scalar", ".rescale", ".bias", ".weight", ".gate", ".lora_B.bias"),
        *(
            "_lora.up.weight",
            "_lora.down.weight",
            ".lora_A",
            ".lora_B",
            ".on_input",
            ".vera_lambda_b",
            ".lora_A.x.weight",
        ),
    }
)


@st.composite
def odd_modules(draw: st.DrawFn, name: str) -> dict[str, Tensor]:
    """A module of some kind with a few of its keys left out, added, or under another shape, dtype or value."""
    made = dict(draw(st.sampled_from(list(KINDS.values()))))
    for end in draw(st.lists(st.sampled_from(ENDS), max_size=3, unique=True)):
        made[end] = draw(odd_tensors())
    for end in draw(st.lists(st.sampled_from(sorted(made)), max_size=1)):
        made.pop(end, None)
    return {name + end: tensor for end, tensor in made.items()}
