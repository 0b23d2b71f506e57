import os
from pathlib import Path

from dev.server import link_models


def test_a_base_folder_sees_models_without_a_copy_and_a_new_one_in_place_of_a_changed_one(tmp_path: Path) -> None:
    models, base = tmp_path / "models", tmp_path / "base"
    file = models / "vae" / "one.safetensors"
    file.parent.mkdir(parents=True)
    file.write_text("old")
    link_models(models, base)
    place = base / "models" / "vae" / "one.safetensors"
    assert place.samefile(file)

    changed = tmp_path / "changed"
    changed.write_text("new")
    os.replace(changed, file)  # as git does
    link_models(models, base)
    assert place.samefile(file)
    assert place.read_text() == "new"
