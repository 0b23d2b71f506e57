"""The commands of run.py. Each sets up the environment first."""

import sys

from .browser import install_browser
from .environment import set_up
from .front_end import download_front_end
from .paths import ROOT

# Two processes halve the time: many tests wait for a server. The tests of a file stay together, because they share one.
_IN_PARALLEL = ("-n", "2", "--dist", "loadfile")


def test(arguments: list[str]) -> int:
    """Runs the checks and pytest; with arguments, only pytest with these arguments."""
    environment = set_up()
    download_front_end()
    install_browser()
    if not arguments:
        checks = (("ruff", "check"), ("ruff", "format", "--check", "--quiet"), ("basedpyright",))
        for check in checks:
            if code := environment.run("-m", *check):
                return code
    return environment.run("-m", "pytest", "-c", "tests/pytest.ini", *(arguments or ["tests", *_IN_PARALLEL]))


def demo() -> int:
    return set_up().run("-m", "dev.demo")


def serve() -> int:
    return set_up().run("-m", "dev.serve")


def bench(name: str, arguments: list[str]) -> int:
    """Runs benchmarks/NAME as a module."""
    known = sorted(path.parent.name for path in (ROOT / "benchmarks").glob("*/__main__.py"))
    if name not in known:
        sys.exit(f"Benchmark {name}: expected one of {', '.join(known)}.")
    return set_up().run("-m", f"benchmarks.{name}", *arguments)
