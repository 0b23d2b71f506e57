"""One word for one thing: words that were given up must not come back in texts and names that people read."""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from tests.conftest import ROOT

# (pattern of words that were given up, the words that we use).
GIVEN_UP_WORDS = (
    (r"carr(?:y|ies|ied|ying)", "transfer"),
    (r"arriv(?:e|es|ed|ing|als?)", "transfer, or the gap closed"),
    (
        r"mov(?:e|es|ed|ing) (?:an?|the|your|its|their|this|old) (?:\w+ )?(?:loras?|adapters?|change|deltas?)",
        "transfer",
    ),
    (r"(?:lora|adapter|change) (?:is|was|were|be|been) moved|moved (?:lora|adapter|change|delta)s?", "transferred"),
    (r"projected (?:lora|adapter|one)s?", "the transferred LoRA"),
    (r"lessons?", "teacher samples"),
    (r"taught|untaught", "teacher samples, or trained"),
    (r"desks?|pupils?", "teacher samples, or student"),
    (r"(?<!like )theirs", "source or target"),
    (
        r"the other(?: one)?'s (?:base|model)|the one (?:base|model)|one (?:base|model) and the other",
        "source and target",
    ),
    (r"infos?|objs?|utils?|misc", "the thing's own name"),
)

# Parts of names of functions, classes, files and folders.
GIVEN_UP_NAME_PARTS = {
    **dict.fromkeys(("carry", "carries", "carried", "arrive", "arrived", "arrival"), "transfer, or the gap closed"),
    **dict.fromkeys(("lesson", "lessons", "taught", "desk", "desks", "pupil"), "teacher samples or student"),
    **dict.fromkeys(("ours", "theirs"), "source or target"),
    **dict.fromkeys(("info", "infos", "obj", "objs", "data"), "the thing's own name"),
    **dict.fromkeys(("helper", "helpers", "util", "utils", "misc", "manager", "handle"), "what it does"),
}

# Whole names of functions, classes, parameters, fields and variables.
GIVEN_UP_NAMES = (
    "one",
    "other",
    "found",
    "given",
    "some",
    "place",
    "ours",
    "theirs",
    "thing",
    "info",
    "obj",
    "data",
    "misc",
)

# Names of a node's inputs and outputs.
GIVEN_UP_SOCKETS = {"projected": "transferred", "lora": "adapter, lora_model or transferred"}

# (file, a text on the line or the name, the reason why it may say such a word).
ALLOWED = (
    ("benchmarks/speed/ours.py", "ours", "our transfer beside its rivals, as the tables call it"),
    ("benchmarks/device/ours.py", "ours", "our transfer beside its rivals, as the tables call it"),
    ("*.py", "object_info", "ComfyUI's name"),
    ("*.py", ".civitai.info", "a download tool's ending"),
    ("docs/formats.md", ".civitai.info", "a download tool's ending"),
    ("core/lapack.py", "info", "LAPACK's name for its error code"),
    ("benchmarks/device/pack.py", "utils/", "a folder of ComfyUI"),
    ("benchmarks/speed/by_shape.py", "ours", "our transfer beside its rivals, as the tables call it"),
)

# Folders and files that are not rewritten yet: their texts, or their names, are not checked. Only ever shorten these.
UNFINISHED_TEXTS: tuple[str, ...] = ("benchmarks/device/", "docs/method.md")
UNFINISHED_NAMES: tuple[str, ...] = ("benchmarks/device/",)

PAGES = ("*.md", "docs/*.md", "web/docs/*/*.md", "benchmarks/*/RESULTS.md")
CODE = ("*.py", "core/**/*.py", "nodes/**/*.py", "dev/**/*.py", "benchmarks/**/*.py")
SCRIPTS = ("web/**/*.js",)
WORKFLOWS = ("example_workflows/*.json", "subgraphs/*.json", "dev/*.json")

# A JavaScript comment or string literal; the line breaks inside a template are kept.
_SCRIPT_TEXT = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`", re.DOTALL)

Text = tuple[Path, int, str]


@pytest.mark.parametrize(("pattern", "instead"), GIVEN_UP_WORDS)
def test_no_text_says_a_word_that_was_given_up(pattern: str, instead: str) -> None:
    word = re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE)
    hits = [
        f"{path.relative_to(ROOT)}:{line}: {text.strip()}"
        for path, line, text in _texts()
        if word.search(text) and not _is_allowed(path, text)
    ]
    assert not hits, f"Say {instead}:\n" + "\n".join(hits)


def test_no_function_class_or_file_is_named_by_a_word_that_was_given_up() -> None:
    hits = [
        f"{path.relative_to(ROOT)}:{line}: {name}; say {GIVEN_UP_NAME_PARTS[part]}"
        for path, line, name in _names()
        for part in _parts(name)
        if part in GIVEN_UP_NAME_PARTS and not _is_allowed(path, name)
    ]
    assert not hits, "\n".join(hits)


def test_no_name_is_a_word_that_was_given_up() -> None:
    hits = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in _files(CODE, UNFINISHED_NAMES)
        for line, name in _assigned_names(ast.parse(path.read_text(encoding="utf-8")))
        if name.strip("_") in GIVEN_UP_NAMES and not _is_allowed(path, name)
    ]
    assert not hits, "Use a real name instead of these:\n" + "\n".join(hits)


def test_no_socket_has_a_name_that_was_given_up() -> None:
    hits = [
        f"{path.relative_to(ROOT)}:{line}: {name}; say {GIVEN_UP_SOCKETS[name]}"
        for path in sorted((ROOT / "nodes").glob("*.py"))
        for line, name in _sockets(ast.parse(path.read_text(encoding="utf-8")))
        if name in GIVEN_UP_SOCKETS
    ]
    assert not hits, "\n".join(hits)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("It carries the LoRA", True),
        ("It moves the LoRA's change", True),
        ("the block was moved", False),
        ("Information", False),
        ("the projected LoRA", True),
    ],
)
def test_the_patterns_match_whole_words(text: str, says: bool) -> None:
    assert any(re.search(rf"\b(?:{pattern})\b", text, re.IGNORECASE) for pattern, _ in GIVEN_UP_WORDS) is says


def test_every_kind_of_file_has_texts() -> None:
    suffixes = {path.suffix for path, _, _ in _texts()}
    assert suffixes == {".md", ".py", ".js", ".json"}


def _texts() -> Iterator[Text]:
    """Everything that people read: pages, comments and strings of code, texts of nodes in workflows."""
    readers = ((PAGES, _page_texts), (CODE, _code_texts), (SCRIPTS, _script_texts), (WORKFLOWS, _workflow_texts))
    for patterns, read in readers:
        for path in _files(patterns, UNFINISHED_TEXTS):
            for line, text in read(path.read_text(encoding="utf-8")):
                yield path, line, text


def _files(patterns: tuple[str, ...], unfinished: tuple[str, ...]) -> list[Path]:
    paths = {path for pattern in patterns for path in ROOT.glob(pattern)}
    return sorted(path for path in paths if not path.relative_to(ROOT).as_posix().startswith(unfinished))


def _page_texts(content: str) -> Iterator[tuple[int, str]]:
    yield from enumerate(content.splitlines(), 1)


def _code_texts(content: str) -> Iterator[tuple[int, str]]:
    """Comments and strings. Python before 3.12 has no tokens for the parts of an f-string: it is a single string."""
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING) or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            yield from enumerate(token.string.splitlines(), token.start[0])


def _script_texts(content: str) -> Iterator[tuple[int, str]]:
    for match in _SCRIPT_TEXT.finditer(content):
        yield from enumerate(match[0].splitlines(), content.count("\n", 0, match.start()) + 1)


def _workflow_texts(content: str) -> Iterator[tuple[int, str]]:
    """Titles of nodes and groups, and every text that a widget holds: (id of the node or group, text)."""
    workflow = json.loads(content)
    graphs = [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]
    for item in chain.from_iterable((*graph.get("nodes", []), *graph.get("groups", [])) for graph in graphs):
        values = item.get("widgets_values") or []
        widget_texts = values.values() if isinstance(values, dict) else values
        for text in (item.get("title"), *widget_texts):
            if isinstance(text, str):
                yield item.get("id", 0), text


def _names() -> Iterator[Text]:
    """Names of functions and classes, and of the files and folders that hold them."""
    for path in _files(CODE, UNFINISHED_NAMES):
        for part in path.relative_to(ROOT).parts:
            yield path, 1, part.removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield path, node.lineno, node.name


def _assigned_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names of functions, classes, parameters, fields and variables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id


def _sockets(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Ids and display names in calls of `...Input(id, ...)` and `...Output(id, display_name=...)`."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("Input", "Output")
        ):
            values = [*node.args[:1], *(keyword.value for keyword in node.keywords if keyword.arg == "display_name")]
            for value in values:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield value.lineno, value.value


def _parts(name: str) -> list[str]:
    """The words of a name in snake_case or CamelCase, in lower case."""
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def _is_allowed(path: Path, text: str) -> bool:
    return any(path.match(file) and allowed in text for file, allowed, _ in ALLOWED)
