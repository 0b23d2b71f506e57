"""What a node shows travels as JSON in its `ui` result."""

import json

from lora_transfer.core.reports.line import Line
from lora_transfer.nodes.messages import KEY, message


def test_a_message_holds_its_sentences_in_order_as_json() -> None:
    shown = message([Line("good", "It works."), Line("next", "Save it.")], report={"kind": "similarity"})
    (content,) = json.loads(json.dumps(shown))[KEY]
    assert [line["tone"] for line in content["lines"]] == ["good", "next"]
    assert content["lines"][1]["text"] == "Save it."
    assert content["report"] == {"kind": "similarity"}


def test_a_message_without_a_picture_has_neither_report_nor_images() -> None:
    shown = message([Line("plain", "Nothing to see.")])
    assert set(shown) == {KEY}
    assert set(shown[KEY][0]) == {"lines"}
