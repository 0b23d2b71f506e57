"""The benchmarks' short runs: they succeed, and their last line is JSON."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("name", ["matching", "quality", "refine"])
def test_a_benchmark_in_brief_keeps_what_it_promises(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(finished.stdout[-2000:])
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert isinstance(json.loads(finished.stdout.splitlines()[-1]), dict)
