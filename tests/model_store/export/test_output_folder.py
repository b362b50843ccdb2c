"""An export replaces what is at its target, so only what may be replaced is accepted there."""

import shutil

import pytest

from model_store.catalogue.entries import BUNDLED_DIRECTORY
from model_store.errors import UsageError
from model_store.export.output_folder import check_output_folder, move_to_output_folder
from service.manifest import GRAPH_NAMES, MANIFEST_NAME


def write_artifact(directory, content="old"):
    """The bundled manifest beside files of its graphs' names; nothing here looks into them."""
    directory.mkdir(parents=True)
    shutil.copy(BUNDLED_DIRECTORY / "edgesam-lite" / MANIFEST_NAME, directory)
    for name in GRAPH_NAMES:
        (directory / f"{name}.onnx").write_text(content)
    return directory


def contents_of(directory):
    return {path.name: path.read_text() for path in directory.iterdir() if path.name != MANIFEST_NAME}


def all_graphs(content):
    return {f"{name}.onnx": content for name in GRAPH_NAMES}


@pytest.mark.parametrize("force", [True, False])
def test_an_absent_and_an_empty_folder_are_free(tmp_path, force):
    check_output_folder(tmp_path / "absent" / "model", force=force)
    check_output_folder(tmp_path, force=force)


@pytest.mark.parametrize("damage", [None, "prepare.onnx", MANIFEST_NAME])
def test_an_artifact_complete_or_damaged_is_replaced_on_request_only(tmp_path, damage):
    directory = write_artifact(tmp_path / "model")
    if damage is not None:
        (directory / damage).write_text("{}")

    check_output_folder(directory, force=True)
    with pytest.raises(UsageError, match="exists already; --force replaces it"):
        check_output_folder(directory, force=False)


@pytest.mark.parametrize("is_damaged", [False, True])
def test_an_artifact_with_something_else_in_it_is_left_alone(tmp_path, is_damaged):
    directory = write_artifact(tmp_path / "model")
    (directory / "thesis.txt").write_text("years of work")
    if is_damaged:
        (directory / MANIFEST_NAME).write_text("{}")

    with pytest.raises(UsageError, match=r"more than a model \(thesis\.txt\)"):
        check_output_folder(directory, force=True)


def test_what_is_no_folder_of_an_artifact_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("years of work")
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.txt").write_text("years of work")

    for name in ("file", "papers"):
        with pytest.raises(UsageError, match=f"{name} exists and is not a model"):
            check_output_folder(tmp_path / name, force=True)


def test_a_link_is_not_followed(tmp_path):
    write_artifact(tmp_path / "model")
    (tmp_path / "link").symlink_to("model")
    (tmp_path / "dangling").symlink_to("nowhere")

    for name in ("link", "dangling"):
        with pytest.raises(UsageError, match=f"{name} is a link"):
            check_output_folder(tmp_path / name, force=True)


def test_a_mount_point_cannot_be_replaced(tmp_path):
    with pytest.raises(UsageError, match="mount point"):
        check_output_folder(tmp_path.parents[-1], force=True)


@pytest.mark.parametrize("before", ["absent", "empty", "artifact"])
def test_an_artifact_is_moved_completely(tmp_path, before):
    directory = tmp_path / "model"
    if before == "empty":
        directory.mkdir()
    if before == "artifact":
        write_artifact(directory)
        (directory / "encoder.onnx").unlink()
    made = write_artifact(tmp_path / "scratch" / "artifact", "new")

    move_to_output_folder(made, directory)

    assert contents_of(directory) == all_graphs("new")
    assert not made.exists()


def test_work_that_came_meanwhile_is_kept(tmp_path):
    directory = tmp_path / "model"
    check_output_folder(directory, force=False)
    made = write_artifact(tmp_path / "scratch" / "artifact", "new")
    directory.mkdir()
    (directory / "thesis.txt").write_text("years of work")

    with pytest.raises(UsageError, match="is not a model"):
        move_to_output_folder(made, directory)

    assert (directory / "thesis.txt").read_text() == "years of work"


def test_an_artifact_that_cannot_be_replaced_stays(tmp_path):
    directory = write_artifact(tmp_path / "model")
    (tmp_path / "scratch").mkdir()

    with pytest.raises(FileNotFoundError):
        move_to_output_folder(tmp_path / "scratch" / "nothing", directory)

    assert contents_of(directory) == all_graphs("old")
