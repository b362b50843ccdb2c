"""A manifest is replaced whole or not at all."""

import pytest

from model_store.catalogue.entries import BUNDLED_DIRECTORY
from model_store.export.manifest_file import manifest_text, replace_manifest
from service.manifest import MANIFEST_NAME, load_manifest


@pytest.fixture
def folder(tmp_path):
    """A folder with the manifest of the bundled model."""
    (tmp_path / MANIFEST_NAME).write_bytes((BUNDLED_DIRECTORY / "edgesam-lite" / MANIFEST_NAME).read_bytes())
    return tmp_path


def test_the_text_of_a_manifest_is_what_was_read(folder):
    assert manifest_text(load_manifest(folder)) == (folder / MANIFEST_NAME).read_text()


def test_a_manifest_replaces_the_old_one_with_its_mode(folder):
    (folder / MANIFEST_NAME).chmod(0o640)
    manifest = load_manifest(folder).model_copy(update={"notes": "calibrated"})

    replace_manifest(folder, manifest)

    assert load_manifest(folder).notes == "calibrated"
    assert (folder / MANIFEST_NAME).stat().st_mode & 0o777 == 0o640
    assert [path.name for path in folder.iterdir()] == [MANIFEST_NAME]


def test_a_manifest_that_cannot_be_replaced_leaves_nothing_behind(folder):
    manifest = load_manifest(folder)
    (folder / MANIFEST_NAME).unlink()
    (folder / MANIFEST_NAME).mkdir()  # a file cannot take the place of a folder

    with pytest.raises(OSError, match="directory"):
        replace_manifest(folder, manifest)

    assert [path.name for path in folder.iterdir()] == [MANIFEST_NAME]
