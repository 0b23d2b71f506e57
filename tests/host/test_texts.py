"""Every text of a node stands in English and Chinese, every node has help with a picture; this counts them."""

import os
import re

import pytest

from lora_transfer.nodes import NODES
from lora_transfer.nodes.sockets import CATEGORY
from tests.conftest import ROOT
from tests.host.locale_texts import (
    SYNTAX,
    Texts,
    flatten,
    main_texts,
    node_texts,
    read,
    settings_texts,
    without_syntax,
    write,
)

LOCALES = ROOT / "locales"
HELP = ROOT / "web" / "docs"
RENEW = "LORA_TRANSFER_RENEW_TEXTS"
LANGUAGES = ("en", "zh")
NODE_IDS = [node.GET_SCHEMA().node_id for node in NODES]
_MOST_SENTENCES = 2  # of a tooltip, and of the line on each option
_MOST_BYTES = 120_000  # of a picture in the help

_SETTINGS = (ROOT / "web" / "settings.js").read_text(encoding="utf-8")
_IMAGE = re.compile(r"!\[(?P<text>[^\]]*)\]\((?P<path>[^)]+)\)")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<path>[^)]+)\)")
_REPOSITORY = "https://github.com/lora-transfer/ComfyUI-LoRA-Transfer"
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


def _today() -> dict[str, Texts]:
    """The texts of the schemas and of the settings page: file -> its content in English."""
    nodes = {node.GET_SCHEMA().node_id: node_texts(node.GET_NODE_INFO_V1()) for node in NODES}
    return {"nodeDefs": nodes, "settings": settings_texts(_SETTINGS), "main": main_texts(_SETTINGS, CATEGORY)}


TODAY = _today()
FILES = list(TODAY)


@pytest.mark.parametrize("file", FILES)
def test_the_english_file_holds_the_texts_of_today(file: str) -> None:
    path, today = LOCALES / "en" / f"{file}.json", without_syntax(TODAY[file])
    before, now = flatten(read(path)), flatten(today)
    if os.environ.get(RENEW):
        write(path, today)
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    assert read(path) == today, f"{RENEW}=1 renews the file. Translate these texts in locales/zh: {', '.join(changed)}"


@pytest.mark.parametrize("file", FILES)
def test_every_text_is_in_chinese(file: str) -> None:
    english, chinese = flatten(TODAY[file]), flatten(read(LOCALES / "zh" / f"{file}.json"))
    assert chinese.keys() ^ english.keys() == set()
    sentences = [key for key, text in english.items() if len(text.split()) > 3]
    assert [key for key in sentences if not _CHINESE.search(chinese[key])] == []
    assert [key for key, text in chinese.items() if SYNTAX.search(text)] == []
    assert [key for key, text in english.items() if text and not chinese[key]] == []


def test_every_input_and_output_has_a_tooltip_of_at_most_two_sentences() -> None:
    texts = flatten(TODAY["nodeDefs"]) | flatten(TODAY["settings"])
    tooltips = {key: text for key, text in texts.items() if key.endswith("/tooltip")}
    assert len(tooltips) > 100
    assert [key for key, text in tooltips.items() if not text] == []
    assert [key for key, text in tooltips.items() if _count_sentences(text) > _MOST_SENTENCES] == []


def test_a_description_is_a_sentence() -> None:
    descriptions = {key: text for key, text in flatten(TODAY["nodeDefs"]).items() if key.endswith("/description")}
    assert len(descriptions) == len(NODES)
    assert [key for key, text in descriptions.items() if _count_sentences(text) != 1] == []


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node_id", NODE_IDS)
def test_a_node_has_help_that_opens_with_a_sentence_and_a_picture(node_id: str, language: str) -> None:
    page = _page(node_id, language)
    title, sentence, picture, *rest = [part for part in page.split("\n\n") if part.strip()]
    assert title.startswith("# ")
    assert not sentence.startswith(("#", "!", "|"))
    assert _count_sentences(sentence) == 1
    image = _IMAGE.fullmatch(picture.strip())
    assert image is not None
    assert image["text"]
    assert any(part.startswith("|") for part in rest)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node_id", NODE_IDS)
def test_pictures_and_links_of_the_help_lead_somewhere(node_id: str, language: str) -> None:
    """The page looks for pictures below the pack's docs folder, wherever the text stands."""
    page = _page(node_id, language)
    for image in _IMAGE.finditer(page):
        assert (HELP / image["path"]).is_file(), image["path"]
        assert (HELP / image["path"]).stat().st_size <= _MOST_BYTES
    for link in _LINK.finditer(page):
        address = link["path"]
        assert address.startswith(("https://arxiv.org/", _REPOSITORY))
        _, is_file, path = address.partition(f"{_REPOSITORY}/blob/main/")
        assert not is_file or (ROOT / path.partition("#")[0]).is_file(), address


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node_id", NODE_IDS)
def test_the_help_names_every_input(node_id: str, language: str) -> None:
    page = _page(node_id, language)
    names = {texts["name"] for texts in TODAY["nodeDefs"][node_id]["inputs"].values()}
    assert sorted(name for name in names if f"`{name}`" not in page) == []


def test_every_workflow_has_a_thumbnail() -> None:
    workflows = list((ROOT / "example_workflows").glob("*.json"))
    assert workflows
    assert [file.name for file in workflows if not file.with_suffix(".jpg").is_file()] == []


@pytest.mark.parametrize(
    ("text", "sentences"),
    [("A file: .pt or .bin.", 1), ("SD 1.5 and others. Lower it.", 2), ("A. B. C.", 3), ("一句话。两句话。", 2)],
)
def test_sentences_are_counted(text: str, sentences: int) -> None:
    assert _count_sentences(text) == sentences


def _page(node_id: str, language: str) -> str:
    return (HELP / node_id / f"{language}.md").read_text(encoding="utf-8")


def _count_sentences(text: str) -> int:
    """The most sentences in a line: a tooltip of several lines explains an option in each."""
    return max(len(re.findall(r"[.!?](?=\s|$)|[。!?]", line)) or 1 for line in text.split("\n"))
