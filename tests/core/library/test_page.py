"""The page that shows a manifest."""

from pathlib import Path

from lora_transfer.core.library.entry import Entry, FileMark, Output
from lora_transfer.core.library.manifest import NAME as MANIFEST
from lora_transfer.core.library.manifest import open_manifest
from lora_transfer.core.library.page import page, write_page
from lora_transfer.core.reports.envelope import Identity

ATTACK = "</td><script>alert(1)</script>\"'&"


def manifest_of(folder: Path, *entries: Entry):
    manifest = open_manifest(folder / MANIFEST)
    for entry in entries:
        manifest.add(entry)
    return manifest


def entry(lora: str, outcome: str = "transferred", **fields: object) -> Entry:
    bases = Identity(f"old {ATTACK}", "1"), Identity("new", "2")
    return Entry(lora, FileMark(1, 2, "h"), *bases, {"method": ATTACK}, outcome, **fields)  # pyright: ignore[reportArgumentType]


def test_every_text_is_escaped(tmp_path: Path) -> None:
    texts = {"reason": ATTACK, "reasons": (ATTACK,), "notes": (ATTACK,), "verdict": ATTACK}
    written = "".join(page(manifest_of(tmp_path, entry(ATTACK, "unusable", **texts))))
    assert written.count("<script>") == 1  # the page's own
    assert "alert(1)</script>" not in written
    assert "&lt;script&gt;alert(1)" in written


def test_the_last_line_of_every_lora_is_a_row(tmp_path: Path) -> None:
    manifest = manifest_of(
        tmp_path,
        entry("a", "failed", reason="the disk is full"),
        entry("b", output=Output("b", 2_500_000, "s"), lost=0.25, strip="9-05", verdict="works"),
        entry("a", output=Output("a", 1, "s")),
    )
    written = "".join(page(manifest))
    assert written.count("<tr>") == 3  # the heading and two rows
    assert "the disk is full" not in written
    assert "75%" in written
    assert "<b>2</b> transferred" in written
    assert written.count("<rect") == 3


def test_an_empty_manifest_has_a_page_and_names_need_not_be_text(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path)
    write_page(manifest, tmp_path, tmp_path)
    manifest.add(entry("bad \udcff name"))
    path = write_page(manifest, tmp_path, tmp_path)
    assert "bad \\udcff name" in path.read_text(encoding="utf-8")
