import re

import torch

from tests.conftest import ROOT


def test_the_example_in_contributing_runs() -> None:
    torch.manual_seed(0)
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(block, "CONTRIBUTING.md", "exec"), {})  # noqa: S102  (our own text)
    assert len(text.splitlines()) < 80
