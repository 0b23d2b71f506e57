"""Processes that run.py starts end with it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT

# As much of ComfyUI as the server's starter asks for.
COMFYUI = """
import http.server, os, pathlib, sys
pathlib.Path(sys.argv[sys.argv.index("--base-directory") + 1], "pid").write_text(str(os.getpid()))

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Answer).serve_forever()
"""
HOLDER = """
import sys, time
from pathlib import Path
from dev.server import ComfyServer
folder = Path(sys.argv[1])
with ComfyServer(folder, folder / "base"):
    (folder / "ready").touch()
    time.sleep(60)
"""
STARTER = """
import sys
from pathlib import Path
from dev.environment import Environment
sys.exit(Environment(Path(sys.executable), Path(sys.argv[1])).run(Path(sys.argv[1], "holder.py"), sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_what_is_ended_by_sigterm_takes_its_comfyui_along(tmp_path: Path) -> None:
    for name, code in (("main", COMFYUI), ("holder", HOLDER), ("starter", STARTER)):
        (tmp_path / f"{name}.py").write_text(code)
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, tmp_path / "starter.py", tmp_path], env=variables, cwd=ROOT)
    _wait_for((tmp_path / "ready").exists)
    comfyui = int((tmp_path / "base" / "pid").read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) != 0
    _wait_for(lambda: not _runs(comfyui))


def _wait_for(what: Callable[[], bool], limit: float = 30.0) -> None:
    started = time.monotonic()
    while not what():
        assert time.monotonic() - started < limit
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
