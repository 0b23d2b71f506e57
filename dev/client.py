"""Talks to a running ComfyUI as its own page does: HTTP for prompts and files, a websocket for events."""

import json
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import websocket

TIME_LIMIT = 600  # seconds without a message from the server


@dataclass
class RunResult:
    """The result of a prompt. status: success, error, interrupted, or refused (by validation, before anything ran).

    outputs: node id -> what the node showed. errors: node id -> message. progress: node id -> (last value, maximum).
    texts: node id -> texts that it showed while it ran. previews: the number of preview pictures.
    """

    status: str = "running"
    prompt_id: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    progress: dict[str, tuple[int, int]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    previews: int = 0
    seconds: float = 0.0


def silent(kind: str, event: dict[str, Any]) -> None:
    """A listener that ignores every event."""


class ComfyClient:
    """A client of the server at `address` (host:port)."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.client_id = uuid.uuid4().hex

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"http://{self.address}{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            text = answer.read()
        return json.loads(text) if text else None

    def object_info(self) -> dict[str, Any]:
        return self.get("/object_info")

    def view(self, image: dict[str, str]) -> bytes:
        """Downloads an image of a node's output."""
        query = urllib.parse.urlencode(image)
        with urllib.request.urlopen(f"http://{self.address}/view?{query}", timeout=60) as answer:
            return answer.read()

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def queue(self, prompt: dict[str, Any], listener: Callable[[str, dict[str, Any]], None] = silent) -> RunResult:
        """Runs a prompt to its end. `listener` gets each of its events at once."""
        started = time.monotonic()
        socket = websocket.create_connection(
            f"ws://{self.address}/ws?clientId={self.client_id}", timeout=TIME_LIMIT, skip_utf8_validation=True
        )
        try:
            result = self._submit(prompt)
            finished = result.status == "refused"
            while not finished:
                message = socket.recv()
                if isinstance(message, str):
                    event = json.loads(message)
                    finished = _take(result, event["type"], event["data"], listener)
                else:
                    _take_binary(result, message)
        finally:
            socket.close()
        if result.status == "success":
            result.outputs = self.get(f"/history/{result.prompt_id}")[result.prompt_id]["outputs"]
        result.seconds = time.monotonic() - started
        return result

    def _submit(self, prompt: dict[str, Any]) -> RunResult:
        try:
            answer = self.post("/prompt", {"prompt": prompt, "client_id": self.client_id})
        except urllib.error.HTTPError as refusal:
            answer = json.load(refusal)
            sentences = {
                node: "; ".join(f"{error['message']}: {error['details']}" for error in failures["errors"])
                for node, failures in answer.get("node_errors", {}).items()
            }
            return RunResult(status="refused", errors=sentences or {"": answer["error"]["message"]})
        return RunResult(prompt_id=answer["prompt_id"])


_PREVIEWS, _TEXT = (1, 4), 3  # ComfyUI's numbers of its binary messages


def _take_binary(result: RunResult, message: bytes) -> None:
    """Records a binary message: a preview picture, or a text as (length of the node's id, id, text)."""
    kind, length = struct.unpack_from(">II", message)
    if kind in _PREVIEWS:
        result.previews += 1
    elif kind == _TEXT:
        node, text = message[8 : 8 + length].decode(), message[8 + length :].decode()
        result.texts.setdefault(node, []).append(text)


def _take(result: RunResult, kind: str, event: dict[str, Any], listener: Callable[[str, dict[str, Any]], None]) -> bool:
    """Records an event, and returns True if it is the last one.

    The last event is "executing" without a node. "execution_success" comes too early: the history with the outputs is
    not written yet."""
    if event.get("prompt_id") not in (None, result.prompt_id):
        return False
    listener(kind, event)
    if kind == "progress":
        result.progress[str(event["node"])] = (event["value"], event["max"])
    elif kind == "execution_success":
        result.status = "success"
    elif kind == "execution_interrupted":
        result.status = "interrupted"
    elif kind == "execution_error":
        result.status = "error"
        result.errors[str(event["node_id"])] = event["exception_message"].strip()
    return kind == "executing" and event["node"] is None
