"""What the command line prints for people: risks, descriptions, and lines that fit the terminal."""

import io
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_transfer.core.library.entry import Entry, FileMark
from lora_transfer.core.reports.envelope import Identity
from lora_transfer.nodes.host.command_line.entry_lines import EntryLines
from lora_transfer.nodes.host.command_line.say import wrap_to
from tests.host.run_cli import call
from tests.host.small_families import write_small
from tests.host.small_library import FAMILY, SmallLibrary, write_library

Said = pytest.CaptureFixture[str]


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> SmallLibrary:
    return write_library(tmp_path_factory.mktemp("texts"))


def describe(lines: EntryLines, lora: str, *reasons: str, verdict: str = "risky") -> list[str]:
    bases = Identity("old", "1"), Identity("new", "2")
    return lines.describe(
        Entry(lora, FileMark(1, 2), *bases, {}, "transferred", verdict=verdict, risks=reasons, lost=0.0)
    )


def test_a_risk_is_printed_once_and_then_named_by_its_number() -> None:
    lines = EntryLines()
    far = "weight cosine {}, similarity above chance {} (unrelated bases: 0 and 0): the target has drifted far"
    first = describe(lines, "a", far.format("0.912", "0.41"), "trained on x 1.5")
    assert first[0].endswith("a: risky [1] [2], 100% of its change")
    assert first[1:] == [f"  [1] {far.format('0.912', '0.41')}", "  [2] trained on x 1.5"]
    # Figures differ from LoRA to LoRA; digits in other sentences may be those of a file's name.
    second = describe(lines, "b", far.format("0.899", "0.40"), "trained on x 1.4")
    assert second == ["transferred  b: risky [1] [3], 100% of its change", "  [3] trained on x 1.4"]
    assert describe(lines, "c", verdict="works") == ["transferred  c: works, 100% of its change"]


def test_swapped_bases_are_said_once_by_a_run_and_by_a_verdict(
    library: SmallLibrary, tmp_path: Path, capsys: Said
) -> None:
    for name in ("one", "two"):
        path = tmp_path / f"{name}.safetensors"
        save_file(load_file(library.loras / "lora_0.safetensors"), path, {"ss_sd_model_name": library.target.name})
    assert call(library.source, library.target, tmp_path, "--out", tmp_path / "out", "--threshold", 0) == 0
    said = capsys.readouterr().out
    assert said.count("are source and target swapped?") == 1
    assert said.count("risky [1]") == 2
    assert call("verdict", library.source, library.target, tmp_path / "one.safetensors") == 0
    said = capsys.readouterr().out
    assert said.startswith("risky: ")
    assert "are source and target swapped?" in said
    assert call("verdict", library.source, library.target, tmp_path / "one.safetensors", "--json") == 0
    judged = json.loads(capsys.readouterr().out)
    assert judged["word"] == "risky"
    assert judged["block_map"]["blocks"][0]["source"]


def test_a_difference_of_strangers_is_warned_of(library: SmallLibrary, tmp_path: Path, capsys: Said) -> None:
    stranger = write_small(tmp_path / "stranger.safetensors", FAMILY, 7, torch.float16)
    options = ("--rank", 4, "--out")
    assert call("extract", library.source, stranger, *options, tmp_path / "a.safetensors") == 0
    assert "are no relatives (weight cosine" in capsys.readouterr().err
    assert call("extract", library.source, stranger, *options, tmp_path / "b.safetensors", "--json") == 0
    said = capsys.readouterr()
    assert "are no relatives" in json.loads(said.out)["warning"]
    assert call("extract", library.source, library.target, *options, tmp_path / "c.safetensors") == 0
    said = capsys.readouterr()
    assert "relatives" not in said.err
    assert "choose a larger --rank" in said.out


def test_a_title_is_not_taken_for_a_base_and_what_the_pack_noted_is_readable(
    library: SmallLibrary, tmp_path: Path, capsys: Said
) -> None:
    lora = tmp_path / "lora.safetensors"
    save_file(load_file(library.loras / "lora_0.safetensors"), lora, {"modelspec.title": "My style"})
    assert call("inspect", lora) == 0
    said = capsys.readouterr().out
    assert "\n  title: My style\n" in said
    assert "trained on: neither" in said
    assert call("inspect", lora, "--json") == 0
    contents = json.loads(capsys.readouterr().out)
    assert contents["title"] == "My style"
    assert contents["trained_on"]["names"] == []
    call(library.source, library.target, lora, "--out", tmp_path / "out", "--threshold", 0)
    capsys.readouterr()
    assert call("inspect", tmp_path / "out" / "lora.safetensors") == 0
    said = capsys.readouterr().out
    for line in ("source: source.safetensors", "target: target.safetensors", "method: restore_both", "verdict: works"):
        assert f"\n    {line}\n" in said
    assert "date of the file: 20" in said
    assert "{" not in said


@pytest.mark.parametrize("width", [50, 80])
def test_sentences_fit_the_terminal_and_json_stays_a_line(
    library: SmallLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    commands = (
        ("verdict", library.source, library.target, library.loras / "lora_0.safetensors"),
        ("inspect", library.loras),
        ("transfer", library.source, library.target, library.loras, "--out", tmp_path, "--dry-run"),
        ("extract", library.source, library.target, "--out", tmp_path / f"{width}.safetensors"),
        ("verdict", library.source, library.loras / "broken.safetensors"),
    )
    for command in commands:
        terminal = Terminal()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", terminal)
            patched.setattr(sys, "stderr", terminal)
            call(*command)
        lines = [line for part in terminal.getvalue().split("\r") for line in part.split("\n")]
        sentences = [line for line in lines if "%|" not in line and "?LoRA/s" not in line]  # without progress bars
        assert all(len(line) < width or len(line.split()) < 3 for line in sentences), sentences
    call("verdict", library.source, library.target)
    assert max(map(len, capsys.readouterr().out.splitlines())) > width  # no terminal: a script reads lines
    terminal = Terminal()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", terminal)
        call("verdict", library.source, library.target, "--json")
    assert len(terminal.getvalue().splitlines()) == 1


def test_a_wrapped_line_keeps_its_indentation_and_whole_paths() -> None:
    path = "/a/folder-with/" + "long" * 20
    assert wrap_to(f"  found {path} there, not here", 30) == f"  found\n      {path}\n      there, not here"
    assert wrap_to("short\n\nlines", 30) == "short\n\nlines"
