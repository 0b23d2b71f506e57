"""What the Comfy registry wants of the pack. https://docs.comfy.org/registry/specifications"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dev.paths import RUN
from tests.conftest import ROOT

# Installed without its other dependencies: ComfyUI brings those that the check of a pack uses; the rest is 240 MB.
COMFY_CLI = ("comfy-cli==1.23.0", "tomlkit==0.15.2", "semver==3.0.4", "pathspec==1.1.1")
INSTALL_LIMIT = 120  # seconds
PYPROJECT = (ROOT / "pyproject.toml").read_text()


@pytest.fixture(scope="module")
def comfy_cli() -> Path:
    """A folder with comfy-cli; the test is skipped where it cannot be installed."""
    folder = RUN / f"comfy_cli_{COMFY_CLI[0].partition('==')[2]}"
    if not (folder / "comfy_cli").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *COMFY_CLI]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_LIMIT)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"comfy-cli cannot be installed here: {error}")
    return folder


def test_comfy_node_validate_passes_without_a_warning(comfy_cli: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(comfy_cli), "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    command = [sys.executable, "-m", "comfy_cli", "--skip-prompt", "--no-enable-telemetry", "node", "validate"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=INSTALL_LIMIT)
    if "ModuleNotFoundError" in ended.stderr:
        pytest.skip(f"comfy-cli needs a package that is not here: {ended.stderr.strip().splitlines()[-1]}")
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    assert "All validation checks passed" in said
    assert "warning" not in said.lower(), said


@pytest.mark.parametrize(("field", "file"), [("Icon", "icon.png"), ("Banner", "banner.png")])
def test_the_pictures_are_named_where_the_repository_has_them(field: str, file: str) -> None:
    pictures = f"https://raw.githubusercontent.com/{_repository()}/main/assets/"
    assert _value(field) == pictures + file
    assert (ROOT / "assets" / file).is_file()


def test_the_icon_is_a_square_of_at_most_400_pixels_and_the_banner_is_21_to_9() -> None:
    icon, banner = (Image.open(ROOT / "assets" / f"{name}.png").size for name in ("icon", "banner"))
    assert icon[0] == icon[1] <= 400
    assert banner[0] * 9 == banner[1] * 21


def test_the_pack_has_a_name_a_publisher_and_a_version_that_the_registry_takes() -> None:
    assert re.fullmatch(r"[a-z][a-z0-9]*(?:[-_.][a-z0-9]+)*", _value("name"))
    assert "comfyui" not in _value("name")
    assert re.fullmatch(r"\d+\.\d+\.\d+", _value("version"))
    assert _value("PublisherId")
    assert _value("DisplayName")


def test_the_newest_version_in_the_changelog_is_dated_and_is_that_of_the_pack() -> None:
    newest = re.search(r"^## (\S+) - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest[1] == _value("version")


def test_publishing_is_only_for_this_repository_and_uses_its_secret() -> None:
    action = (ROOT / ".github" / "workflows" / "publish.yml").read_text()
    assert f"github.repository == '{_repository()}'" in action
    assert "Comfy-Org/publish-node-action@" in action
    assert "secrets.REGISTRY_ACCESS_TOKEN" in action


def test_files_that_only_developers_use_are_left_out_of_the_published_pack() -> None:
    left_out = {line.rstrip("/") for line in (ROOT / ".comfyignore").read_text().split()}
    shipped = {"core", "docs", "example_workflows", "locales", "nodes", "subgraphs", "web"}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {line.partition("/")[0] for line in listed.splitlines() if "/" in line}
    assert folders <= left_out | shipped


def _value(field: str) -> str:
    found = re.search(rf'^{field} = "(.*)"$', PYPROJECT, re.MULTILINE)
    assert found, f"pyproject.toml has no {field}"
    return found[1]


def _repository() -> str:
    return _value("Repository").removeprefix("https://github.com/")
