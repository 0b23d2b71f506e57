"""Every page and section that a text cites exists in the repository."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

_ENDINGS = {".py", ".md", ".js", ".toml"}
_FOLDERS = ("core", "nodes", "benchmarks", "tests", "dev", "docs", "web")
# A reader cannot find a page that is cited by its file name without a folder.
_BARE = re.compile(r"(?<![\w/])(?:data/)?(?:method|speed|host|house|style|formats)\.md")
_CITED = re.compile(r"(?<![\w/])(docs/\w[\w/.-]*\.md)(?:,?\s+sections?\s+(\d+)(?:\s+and\s+(\d+))?)?")


def texts() -> list[Path]:
    """Every text that people read, except this file, which contains the patterns."""
    inside = [path for folder in _FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in _ENDINGS]
    return [path for path in (*inside, *ROOT.glob("*.md"), *ROOT.glob("*.py")) if path != Path(__file__)]


def test_no_text_cites_a_page_by_a_name_that_cannot_be_opened() -> None:
    found = {str(path.relative_to(ROOT)): _BARE.findall(path.read_text(encoding="utf-8")) for path in texts()}
    assert {path: names for path, names in found.items() if names} == {}


def test_every_page_of_docs_that_is_cited_has_the_sections_that_are_named() -> None:
    missing: list[str] = []
    for path in texts():
        # a citation in a comment may span two lines, with a comment sign between them
        text = re.sub(r"\s*\n\s*(?:#|\*)?\s*", " ", path.read_text(encoding="utf-8"))
        for page, *sections in _CITED.findall(text):
            if not (ROOT / page).is_file():
                missing.append(f"{path.name}: {page}")
                continue
            headings = re.findall(r"^## (\d+)\. ", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
            missing += [f"{path.name}: {page}, section {one}" for one in sections if one and one not in headings]
    assert missing == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_link_of_a_page_of_docs_leads_to_a_file(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).is_file()] == []
