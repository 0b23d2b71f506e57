"""The texts that ComfyUI's page shows of the pack, as its files of translations hold them.

ComfyUI serves locales/<language>/{nodeDefs,settings,main}.json, and the page looks a text up by the ids of its node
and input, with "_" in place of ".". A text that a language lacks is shown in English.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Texts = dict[str, Any]

# The page reads some texts as patterns of vue-i18n, where these are syntax, and others as they are. English texts with
# them are left to the node's schema, which the page shows as it is; a translation has to do without them.
SYNTAX = re.compile(r"[{}@|]")

_SETTING = re.compile(r"\{\s*id: (?P<id>\"[^\"]+\"),(?P<body>.*?)\n    \}", re.DOTALL)
_STRING = r"(?:\s*\"[^\"]*\"\s*\+?)+"


def node_texts(node: Mapping[str, Any]) -> Texts:
    """A node of ComfyUI's /object_info -> its entry in nodeDefs.json."""
    outputs = zip(node["output_name"], node["output_tooltips"], strict=True)
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": dict(_input_texts(node["input"], "")),
        "outputs": {str(index): _named(name, tooltip) for index, (name, tooltip) in enumerate(outputs)},
    }


def settings_texts(script: str) -> Texts:
    """The source of web/settings.js -> settings.json."""
    return {_key(json.loads(match["id"])): _setting_texts(match["body"]) for match in _SETTING.finditer(script)}


def main_texts(script: str, category: str) -> Texts:
    """The source of web/settings.js and the nodes' category in the menu -> main.json."""
    labels = [label for match in re.findall(r"category: (\[[^\]]+\])", script) for label in json.loads(match)]
    return {"nodeCategories": {category: category}, "settingsCategories": {label: label for label in labels}}


def flatten(texts: Texts, path: str = "") -> dict[str, str]:
    """{"a": {"b": text}} -> {"a/b": text}"""
    flat: dict[str, str] = {}
    for key, value in texts.items():
        flat |= flatten(value, f"{path}{key}/") if isinstance(value, dict) else {f"{path}{key}": value}
    return flat


def without_syntax(texts: Texts) -> Texts:
    """Texts without those that hold vue-i18n's syntax."""
    nested = {key: without_syntax(value) if isinstance(value, dict) else value for key, value in texts.items()}
    return {key: value for key, value in nested.items() if isinstance(value, dict) or not SYNTAX.search(value)}


def read(file: Path) -> Texts:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def write(file: Path, texts: Texts) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(texts, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _input_texts(inputs: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Texts]]:
    for section in ("required", "optional"):
        for name, (kind, *more) in inputs.get(section, {}).items():
            options = more[0] if more else {}
            yield _key(f"{prefix}{name}"), _named(name, options.get("tooltip"))
            if kind == "COMFY_DYNAMICCOMBO_V3":
                for option in options["options"]:
                    yield from _input_texts(option["inputs"], f"{prefix}{name}.")


def _named(name: str, tooltip: str | None) -> Texts:
    return {"name": name, "tooltip": tooltip or ""}


def _setting_texts(body: str) -> Texts:
    texts: Texts = {key: _string(match[1]) for key in ("name", "tooltip") if (match := _find(key, body))}
    if options := re.search(r"options: (\[[^\]]+\])", body):
        texts["options"] = {option: option for option in json.loads(options[1])}
    return texts


def _find(key: str, body: str) -> re.Match[str] | None:
    return re.search(rf"\b{key}:({_STRING})", body)


def _string(source: str) -> str:
    return "".join(re.findall(r"\"([^\"]*)\"", source))


def _key(name: str) -> str:
    return name.replace(".", "_")
