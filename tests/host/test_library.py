"""A library of LoRAs: resumed, killed, repeated, with bad files among it."""

import json
import os
import random
import signal
import sys
from pathlib import Path

import folder_paths
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lora_transfer.core.errors import FolderInUse, InvalidSetting, UnreadableFile, UnwritableFile
from lora_transfer.core.library.manifest import NAME
from lora_transfer.core.library.schedule import batches
from lora_transfer.nodes.host.adapter.adapter import adapter_from_file
from lora_transfer.nodes.host.adapter.save import cast_for_file, respell
from lora_transfer.nodes.host.base.from_file import base_from_file
from lora_transfer.nodes.host.compare import compare_bases
from lora_transfer.nodes.host.library import run
from lora_transfer.nodes.host.library.files import find_doubles, find_files
from lora_transfer.nodes.host.library.folder import files_below_loras, transfer_folder
from lora_transfer.nodes.host.library.run import open_library, plan_library, transfer_library
from lora_transfer.nodes.host.project import project
from tests.host.small_library import SmallLibrary, bytes_in, lines_in, run_all, write_library, write_lora


@pytest.fixture
def library(tmp_path: Path) -> SmallLibrary:
    return write_library(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallLibrary, Path]:
    """A library and the results of a run that nothing disturbed; for tests that change neither."""
    folder = tmp_path_factory.mktemp("undisturbed")
    library = write_library(folder)
    run_all(library, folder / "out")
    return library, folder / "out"


def test_every_file_has_a_line_and_good_ones_a_result(undisturbed: tuple[SmallLibrary, Path]) -> None:
    library, out = undisturbed
    outcomes = {line["lora"]: line["outcome"] for line in lines_in(out)}
    assert outcomes == {
        "broken.safetensors": "unusable",
        "foreign.safetensors": "unusable",
        "lora_0.safetensors": "transferred",
        "lora_2.safetensors": "transferred",
        "lora_3.safetensors": "transferred",
        "styles/lora_1.safetensors": "transferred",
    }
    assert set(bytes_in(out)) == {name for name, outcome in outcomes.items() if outcome == "transferred"}
    reasons = {line["lora"]: line["reason"] for line in lines_in(out)}
    assert "damaged" in reasons["broken.safetensors"]
    assert reasons["foreign.safetensors"].startswith("LoRA foreign.safetensors: expected")
    assert {file.name for file in library.files()} == set(outcomes)


@pytest.mark.parametrize("method", ["restore_both", "copy", "lora_x"])
def test_a_result_equals_that_of_the_nodes_bit_by_bit(library: SmallLibrary, tmp_path: Path, method: str) -> None:
    batch = library.batch(method)
    run_all(library, tmp_path / "out", batch)
    source, target = (base_from_file(path, path.name) for path in (library.source, library.target))
    adapter = adapter_from_file(library.loras / "lora_0.safetensors", "lora_0.safetensors")
    compared = compare_bases(source, target, adapter, batch.settings.compare, batch.using, lambda text: None)
    result = project(compared.comparison, adapter, batch.settings.transfer, batch.using)
    expected = cast_for_file(respell(result.adapter, "comfy"), result.adapter, "float16")
    written = load_file(tmp_path / "out" / "lora_0.safetensors")
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[key], tensor) for key, tensor in expected.items())


def test_bytes_do_not_depend_on_workers_order_or_batches(
    undisturbed: tuple[SmallLibrary, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, out = undisturbed
    monkeypatch.setattr(run, "batches", lambda sizes, limit: batches(sizes, limit, most=1))
    batch = library.batch(workers=3)
    with open_library(tmp_path) as opened:
        list(transfer_library(opened, library.files()[::-1], batch))
    assert bytes_in(tmp_path) == bytes_in(out)
    assert lines_in(tmp_path) == lines_in(out)


def test_what_is_done_is_skipped_and_a_changed_file_is_done_again(library: SmallLibrary, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_all(library, out)
    before = bytes_in(out)
    assert run_all(library, out) == []
    write_lora(library.loras / "lora_0.safetensors", library.source, 99)
    assert [entry.lora for entry in run_all(library, out)] == ["lora_0.safetensors"]
    changed = bytes_in(out)
    assert {name for name in before if before[name] != changed[name]} == {"lora_0.safetensors"}
    assert run_all(library, out) == []


def test_a_copied_file_with_another_time_is_not_done_again(library: SmallLibrary, tmp_path: Path) -> None:
    run_all(library, tmp_path / "out")
    for file in library.files():
        os.utime(file.path, (1, 1))
    assert run_all(library, tmp_path / "out") == []


def test_other_settings_a_lost_result_and_overwrite_do_it_again(library: SmallLibrary, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_all(library, out)
    (out / "lora_2.safetensors").unlink()
    assert [entry.lora for entry in run_all(library, out)] == ["lora_2.safetensors"]
    assert {entry.lora for entry in run_all(library, out, library.batch("copy"))} == {f.name for f in library.files()}
    assert len(run_all(library, out, library.batch("copy"), overwrite=True)) == len(library.files())


def test_a_stopped_run_that_does_everything_again_goes_on(library: SmallLibrary, tmp_path: Path) -> None:
    out, batch = tmp_path / "out", library.batch("copy")
    run_all(library, out, batch)
    first: list[str] = []

    def stop_after_three() -> None:
        with open_library(out, overwrite=True) as opened:
            for entry in transfer_library(opened, opened.remaining(library.files(), batch.job), batch):
                first.append(entry.lora)
                if len(first) == 3:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_after_three()
    rest = [entry.lora for entry in run_all(library, out, batch, overwrite=True)]
    assert sorted(first + rest) == sorted(file.name for file in library.files())
    assert len(run_all(library, out, batch, overwrite=True)) == len(library.files())
    assert run_all(library, out, batch) == []


def test_a_file_that_the_run_did_not_write_is_never_replaced(library: SmallLibrary, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "lora_0.safetensors").write_bytes(b"mine")
    entries = {entry.lora: entry for entry in run_all(library, out)}
    assert entries["lora_0.safetensors"].outcome == "failed"
    reason = entries["lora_0.safetensors"].reason
    assert "did not write it" in reason
    assert "--" not in reason  # a node has no options
    assert (out / "lora_0.safetensors").read_bytes() == b"mine"
    lines = len(lines_in(out))
    run_all(library, out)
    assert len(lines_in(out)) == lines  # the same failure is noted once
    run_all(library, out, overwrite=True)
    assert (out / "lora_0.safetensors").read_bytes() != b"mine"


def test_two_runs_on_one_folder_do_not_meet(library: SmallLibrary, tmp_path: Path) -> None:
    with (
        open_library(tmp_path / "out"),
        pytest.raises(FolderInUse, match="another run"),
        open_library(tmp_path / "out"),
    ):
        pass
    with open_library(tmp_path / "out"):
        pass


@pytest.mark.skipif(os.name == "nt", reason="needs fork and SIGKILL")
def test_a_run_that_is_killed_at_any_point_ends_as_an_undisturbed_one(
    undisturbed: tuple[SmallLibrary, Path], tmp_path: Path
) -> None:
    library, out = undisturbed
    folder = tmp_path / "out 0"
    events = _run_in_child(library, folder, None)
    assert events is not None
    chance, kills = random.Random(5), 0  # noqa: S311
    while kills < 10:
        if _run_in_child(library, folder, chance.randrange(events)) is None:
            kills += 1
            continue
        # Less and less remains after each kill. Here it was all done before the point was met.
        assert bytes_in(folder) == bytes_in(out)
        folder = tmp_path / f"out {kills}"
    run_all(library, folder)
    assert bytes_in(folder) == bytes_in(out)
    assert lines_in(folder) == lines_in(out)


def _run_in_child(library: SmallLibrary, out: Path, kill_at: int | None) -> int | None:
    """Run in a forked process that is killed (-9) before the given file operation. Returns how many it did; None if it
    was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate"):
                return
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

        batch = library.batch()
        sys.addaudithook(watch)
        run_all(library, out, batch)
        os.write(writing, str(count).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as stream:
        text = stream.read()
    return int(text) if text else None


def test_a_torn_last_line_is_forgotten(library: SmallLibrary, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_all(library, out)
    lines = lines_in(out)
    manifest = out / NAME
    manifest.write_bytes(manifest.read_bytes()[:-30])
    assert len(run_all(library, out)) == 1
    assert lines_in(out) == lines


def test_no_file_stays_open_and_nothing_unfinished_is_left(library: SmallLibrary, tmp_path: Path) -> None:
    for index in range(30):
        write_lora(library.loras / f"more_{index}.safetensors", library.source, index)
    batch = library.batch()
    (tmp_path / "out" / ".lora_transfer").mkdir(parents=True)
    (tmp_path / "out" / ".lora_transfer" / "old.unfinished").write_bytes(b"of a killed run")
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.is_dir() else 0
    run_all(library, tmp_path / "out", batch)
    assert not list((tmp_path / "out").rglob("*.unfinished"))
    assert not descriptors.is_dir() or len(list(descriptors.iterdir())) <= before


def test_a_dry_run_says_the_same_and_writes_nothing(undisturbed: tuple[SmallLibrary, Path], tmp_path: Path) -> None:
    library, out = undisturbed
    planned = {entry.lora: entry for entry in plan_library(library.files(), library.batch())}
    for line in lines_in(out):
        assert planned[line["lora"]].outcome == line["outcome"].replace("transferred", "planned")
        assert planned[line["lora"]].verdict == line["verdict"]
        assert planned[line["lora"]].strip == line["strip"]


def test_a_base_that_cannot_be_read_fails_every_file_with_its_reason(library: SmallLibrary, tmp_path: Path) -> None:
    batch = library.batch()
    library.target.write_bytes(library.target.read_bytes()[:-9])
    entries = {entry.lora: entry for entry in run_all(library, tmp_path / "out", batch)}
    assert len(entries) == len(library.files())
    assert entries["lora_0.safetensors"].outcome == "failed"
    assert "changed" in entries["lora_0.safetensors"].reason
    assert entries["broken.safetensors"].outcome == "unusable"


def test_equal_bases_need_no_transfer(library: SmallLibrary) -> None:
    library.target.write_bytes(library.source.read_bytes())
    with pytest.raises(InvalidSetting, match="No transfer is needed"):
        library.batch()


def test_results_for_one_path_are_not_mixed(library: SmallLibrary, tmp_path: Path) -> None:
    torch.save(load_file(library.loras / "lora_0.safetensors"), library.loras / "LORA_0.pt")
    doubles = find_doubles(library.files())
    assert list(doubles) == ["lora_0.safetensors"]
    entries = {entry.lora: entry for entry in run_all(library, tmp_path / "out")}
    assert entries["LORA_0.pt"].outcome == "transferred"
    assert "same file as that of LORA_0.pt" in entries["lora_0.safetensors"].reason


def test_a_run_that_goes_on_does_not_replace_the_result_of_a_file_that_is_done(
    library: SmallLibrary, tmp_path: Path
) -> None:
    torch.save(load_file(library.loras / "lora_3.safetensors"), library.loras / "LORA_0.pt")
    out, batch = tmp_path / "out", library.batch("copy")

    def stop_after_the_first() -> None:
        with open_library(out, overwrite=True) as opened:
            for _ in transfer_library(opened, library.files(), batch):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_after_the_first()
    (result,) = out.glob("LORA_0.safetensors")
    before = result.read_bytes()
    entries = {entry.lora: entry for entry in run_all(library, out, batch, overwrite=True)}
    assert "LORA_0.pt" not in entries
    assert "same file as that of LORA_0.pt" in entries["lora_0.safetensors"].reason
    assert result.read_bytes() == before


def test_the_metadata_stay_and_name_the_transfer(undisturbed: tuple[SmallLibrary, Path]) -> None:
    _, out = undisturbed
    with safe_open(out / "lora_0.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["seed"] == "0"
    origin = json.loads(metadata["lora_transfer"])
    assert origin["target"]["name"] == "target.safetensors"
    assert "seconds" not in origin


def test_files_are_found_once_and_keep_their_folders(library: SmallLibrary, tmp_path: Path) -> None:
    out = library.loras / "new"
    write_lora(out / "result.safetensors", library.source, 1)
    (library.loras / "notes.txt").write_text("no LoRA")
    (library.loras / "loop").symlink_to(library.loras)
    files = find_files([str(library.loras), str(library.loras / "*.safetensors")], "_x", skip=out)
    outputs = {file.name: file.output for file in files}
    assert outputs["styles/lora_1.safetensors"] == "styles/lora_1_x.safetensors"
    assert set(outputs) == {file.name for file in library.files()} - {"new/result.safetensors"}
    with pytest.raises(UnreadableFile, match="found nothing"):
        find_files([str(tmp_path / "nothing*")])
    with pytest.raises(InvalidSetting, match="part of a file name"):
        find_files([str(library.loras)], "/../x")


def test_files_of_one_name_from_two_folders_have_two_lines(library: SmallLibrary, tmp_path: Path) -> None:
    other = write_lora(tmp_path / "other" / "lora_0.safetensors", library.source, 8)
    files = find_files([str(library.loras / "lora_0.safetensors"), str(other)])
    assert [file.name for file in files] == ["lora_0.safetensors", other.as_posix()]
    assert list(find_doubles(files)) == [other.as_posix()]


@pytest.mark.skipif(os.name == "nt", reason="needs a pipe with a name")
def test_a_pipe_in_the_folder_does_not_stop_the_run(library: SmallLibrary, tmp_path: Path) -> None:
    os.mkfifo(library.loras / "pipe.safetensors")
    entries = {entry.lora: entry for entry in run_all(library, tmp_path / "out")}
    assert "not a file" in entries["pipe.safetensors"].reason
    assert entries["lora_3.safetensors"].outcome == "transferred"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder that cannot be written")
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UnwritableFile, match="cannot be written"), open_library(tmp_path / "out"):
        pass


def test_the_folder_node_transfers_what_is_below_loras(
    library: SmallLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(library.loras)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    batch = library.batch()
    told: list[str] = []
    files = files_below_loras("", "*LORA_*", True, batch.target)
    assert len(files) == 4
    result = transfer_folder(batch.source, batch.target, files, batch.settings, batch.using, told.append)
    assert len(told) == result.new == 4
    assert result.manifest == tmp_path / "output" / "loras" / "target" / NAME
    assert result.table().count("transferred ") == 4
    assert result.lines()[0].text.startswith("4 of 4 LoRAs are transferred")
    assert result.picture().shape[1:] == (1024, 3)
    again = transfer_folder(batch.source, batch.target, files, batch.settings, batch.using, told.append)
    assert (again.new, again.entries) == (0, result.entries)
    other = library.batch("copy")
    changed = transfer_folder(other.source, other.target, files, other.settings, other.using, told.append)
    for said in (changed.replaced, "\n".join(line.text for line in changed.lines())):
        assert "4 results of an earlier run with other settings were replaced: method copy instead" in said
    assert any("will be replaced: method copy" in said for said in told)
    assert [file.name for file in files_below_loras("styles", "", False, batch.target)] == ["lora_1.safetensors"]
    for folder, pattern in (("../..", "*"), ("nothing", "*"), ("", "*.nothing")):
        with pytest.raises(UnreadableFile, match="expected LoRAs below"):
            files_below_loras(folder, pattern, True, batch.target)
