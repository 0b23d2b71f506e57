"""The command line over results of earlier runs: what it says before it replaces, skips or fails."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_transfer.core.files.folder_lock import lock_folder
from tests.host.run_cli import call
from tests.host.small_families import write_small
from tests.host.small_library import FAMILY, SmallLibrary, write_library, write_lora

Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallLibrary, Path]:
    """A library and the results of a run; for tests that change neither."""
    folder = tmp_path_factory.mktemp("reruns")
    library = write_library(folder)
    transfer(library, folder / "out")
    return library, folder / "out"


def transfer(library: SmallLibrary, out: Path, *options: object, loras: Path | None = None) -> int:
    return call(library.source, library.target, loras or library.loras, "--out", out, "--threshold", 0, *options)


def copy_of(done: tuple[SmallLibrary, Path], folder: Path) -> tuple[SmallLibrary, Path]:
    """The same, for a test that changes them."""
    shutil.copytree(done[0].source.parent, folder, dirs_exist_ok=True)
    return SmallLibrary(
        *(folder / path.name for path in (done[0].source, done[0].target, done[0].loras))
    ), folder / "out"


def files_in(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def lines_by_lora(text: str) -> dict[str, dict[str, Any]]:
    return {line["lora"]: line for line in map(json.loads, text.splitlines())}


def test_a_dry_run_says_of_every_file_what_a_run_would_do(
    done: tuple[SmallLibrary, Path], tmp_path: Path, capsys: Said
) -> None:
    library, out = copy_of(done, tmp_path)
    write_lora(library.loras / "lora_0.safetensors", library.source, 50)
    write_lora(library.loras / "new.safetensors", library.source, 51)
    write_lora(library.loras / "taken.safetensors", library.source, 52)
    (out / "taken.safetensors").write_bytes(b"of somebody else")
    before = files_in(out)
    capsys.readouterr()
    assert transfer(library, out, "--dry-run") == 1
    said = capsys.readouterr().out
    assert files_in(out) == before
    for sentence in (
        "done before  lora_2.safetensors -> lora_2.safetensors\n",
        "-> lora_0.safetensors (would replace an earlier result: the LoRA has changed since)\n",
        "-> new.safetensors\n",
        "failed       taken.safetensors: ",
        "add --overwrite to replace it",
        "(an earlier run found this)\n",
    ):
        assert sentence in said
    assert str(out) in said.splitlines()[-1]
    assert transfer(library, out, "--dry-run", "--json") == 1
    planned = lines_by_lora(capsys.readouterr().out)
    assert {name: (line["outcome"], line["done_before"]) for name, line in planned.items()} == {
        "broken.safetensors": ("unusable", True),
        "foreign.safetensors": ("unusable", True),
        "lora_0.safetensors": ("planned", False),
        "lora_2.safetensors": ("transferred", True),
        "lora_3.safetensors": ("transferred", True),
        "new.safetensors": ("planned", False),
        "styles/lora_1.safetensors": ("transferred", True),
        "taken.safetensors": ("failed", False),
    }
    assert planned["new.safetensors"]["would_write"] == "new.safetensors"
    assert planned["new.safetensors"]["would_replace"] is None
    assert transfer(library, out, "--dry-run", "--overwrite", "--json") == 1
    planned = lines_by_lora(capsys.readouterr().out)
    assert planned["taken.safetensors"]["would_replace"] == "a file that no run wrote"
    assert planned["lora_2.safetensors"]["would_replace"] == "an earlier result"
    assert files_in(out) == before


def test_a_dry_run_does_not_wait_for_a_run(done: tuple[SmallLibrary, Path], capsys: Said) -> None:
    library, out = done
    with lock_folder(out):
        assert transfer(library, out, "--dry-run") == 1
    assert "6 of them done before" in capsys.readouterr().out


def test_a_run_does_what_its_dry_run_said(done: tuple[SmallLibrary, Path], tmp_path: Path, capsys: Said) -> None:
    library, out = copy_of(done, tmp_path)
    write_lora(library.loras / "lora_0.safetensors", library.source, 50)
    for name in ("taken", "folder", "blocked/lora", "LORA_2"):
        write_lora(library.loras / f"{name}.safetensors", library.source, 51)
    (out / "taken.safetensors").write_bytes(b"of somebody else")
    (out / "folder.safetensors").mkdir()
    (out / "blocked").write_bytes(b"a file where a folder should be")
    (out / "lora_3.safetensors").write_bytes(b"a result that somebody changed")
    shutil.copy(library.loras / "lora_2.safetensors", library.loras / "lora_9.SAFETENSORS")
    shutil.copy(library.loras / "lora_2.safetensors", library.loras / "LORA_9.safetensors")
    capsys.readouterr()
    for options in ((), ("--method", "copy")):
        transfer(library, out, "--dry-run", "--json", *options)
        planned = lines_by_lora(capsys.readouterr().out)
        transfer(library, out, "--json", *options)
        entries = lines_by_lora(capsys.readouterr().out)
        outcomes = {name: entry["outcome"] for name, entry in entries.items()}
        said = {name: line["outcome"].replace("planned", "transferred") for name, line in planned.items()}
        assert said == outcomes
        assert len(outcomes) == 12


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--method", "copy"), "--method copy instead of restore_both."),
        (
            ("--method", "lora_x", "--gain", "0.5"),
            "--method lora_x instead of restore_both, --gain 0.5",
        ),
        (("--dtype", "float32", "--force"), "--dtype float32 instead of float16, with --force."),
    ],
)
def test_results_of_other_settings_are_not_replaced_without_a_word(
    done: tuple[SmallLibrary, Path], tmp_path: Path, capsys: Said, options: tuple[str, ...], sentence: str
) -> None:
    library, out = done
    capsys.readouterr()
    transfer(library, out, "--dry-run", *options)
    assert f"4 results of an earlier run with other settings would be replaced: {sentence}" in capsys.readouterr().err
    library, out = copy_of(done, tmp_path)
    transfer(library, out, "--json", *options)
    said = capsys.readouterr()
    assert f"4 results of an earlier run with other settings will be replaced: {sentence}" in said.err
    assert len(lines_by_lora(said.out)) == 6
    transfer(library, out, *options)
    assert "replaced" not in capsys.readouterr().err


def test_results_of_another_source_and_of_two_earlier_runs_are_counted(
    done: tuple[SmallLibrary, Path], tmp_path: Path, capsys: Said
) -> None:
    library, out = copy_of(done, tmp_path)
    other = write_small(tmp_path / "older.safetensors", FAMILY, 9, torch.float16, drifted_from=1)
    transfer(library, out, "--spelling", "kohya", loras=library.loras / "lora_0.safetensors")
    assert "1 result of an earlier run" in capsys.readouterr().err
    call(other, library.target, library.loras, "--out", out, "--threshold", 0, "--dry-run")
    said = capsys.readouterr().err
    source = "SOURCE older.safetensors instead of source.safetensors"
    assert f"3: {source}; 1: {source}, --spelling comfy instead of kohya" in said
    # Another suffix gives other files: nothing is replaced.
    call(other, library.target, library.loras, "--out", out, "--threshold", 0, "--dry-run", "--suffix", "_x")
    assert "replaced" not in capsys.readouterr().err


def test_a_run_that_skips_everything_repeats_why_files_have_no_result(
    done: tuple[SmallLibrary, Path], capsys: Said
) -> None:
    library, out = done
    capsys.readouterr()
    assert transfer(library, out) == 1
    said = capsys.readouterr().out
    assert "unusable     broken.safetensors: File" in said
    assert "unusable     foreign.safetensors: LoRA foreign" in said
    assert "lora_0" not in said
    assert "4 transferred, 2 unusable (6 of them done before)" in said
    assert transfer(library, out, "--json") == 1
    lines = lines_by_lora(capsys.readouterr().out)
    assert all(line["done_before"] for line in lines.values())
    assert {name for name, line in lines.items() if line["reason"]} == {"broken.safetensors", "foreign.safetensors"}
    assert lines["lora_0.safetensors"]["verdict"] == "works"


def test_a_failed_attempt_does_not_make_an_earlier_result_somebody_elses(
    done: tuple[SmallLibrary, Path], tmp_path: Path, capsys: Said
) -> None:
    library, out = copy_of(done, tmp_path)
    lora = library.loras / "lora_0.safetensors"
    (out / "lora_0_x.safetensors").write_bytes(b"of somebody else")
    assert transfer(library, out, "--suffix", "_x", loras=lora) == 1  # its line is now the last one of the LoRA
    assert transfer(library, out, "--method", "copy", loras=lora) == 0, capsys.readouterr().out
