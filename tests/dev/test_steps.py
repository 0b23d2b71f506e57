from pathlib import Path

import pytest

from dev import steps


def test_a_step_runs_once_and_again_when_what_it_is_ingredients_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "STAMPS", tmp_path / "stamps")
    runs: list[str] = []
    for ingredients in (["a"], ["a"], ["b"], ["b"]):
        steps.step("brew", ingredients, lambda: runs.append("run"))
    assert len(runs) == 2


def test_a_step_that_fails_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "STAMPS", tmp_path / "stamps")
    with pytest.raises(SystemExit):
        steps.step("brew", [], lambda: steps.run_quietly(["false"]))
    runs: list[str] = []
    steps.step("brew", [], lambda: runs.append("run"))
    assert runs == ["run"]


def test_a_program_that_fails_shows_what_it_said(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="no such luck"):
        steps.run_quietly(["sh", "-c", "echo no such luck; exit 3"])
