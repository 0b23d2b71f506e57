from lora_transfer.core.matching import match_by_name
from tests.core.bases import related_bases


def test_layers_of_equal_name_and_shape_pair_and_all_others_have_a_reason() -> None:
    source, target = related_bases()
    reshaped = {**target.layers, "a.0.q": target.layers["a.0.up"]}
    matching = match_by_name(source.layers, reshaped, [*source.layers, "nowhere"])
    assert [(pair.source.name, pair.why) for pair in matching.pairs] == [
        ("a.0.up", "same name and shape"),
        ("a.1.conv", "same name and shape"),
    ]
    assert {one.layer: one.reason for one in matching.unpaired} == {
        "a.0.q": "the shapes differ: [32, 32] in the source, [48, 20] in the target",
        "b.gone": "the target base has no layer of this name",
        "nowhere": "the source base has no such layer",
    }
