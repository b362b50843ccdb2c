"""Photos are named by lists: those that are set aside from training, and those that are measured alone."""

from pathlib import Path

import pytest

from model_store.errors import ModelStoreError
from model_store.training.data.annotations import PhotoRecord, read_annotations
from model_store.training.data.photo_list import listed_photos, read_photo_list
from model_store.training.data.set_aside import SET_ASIDE_LIST, set_aside_names, without_set_aside


def photo(name, source=""):
    return PhotoRecord(Path("images") / name, (48, 64), source)


def test_sixty_photos_are_set_aside_half_of_them_from_coco():
    names = set_aside_names()

    assert len(names) == 60
    assert sum(name.startswith("bsds500_") for name in names) == 30
    assert sum(name.startswith("coco") for name in names) == 30
    assert list(read_photo_list(SET_ASIDE_LIST)) == sorted(names)


def test_training_sees_no_photo_that_is_set_aside():
    name = min(set_aside_names())

    kept = without_set_aside([photo("first.webp"), photo(name), photo("last.webp"), photo(f"other_{name}")])

    assert [record.path.name for record in kept] == ["first.webp", "last.webp", f"other_{name}"]


def test_a_list_has_comments_and_names(tmp_path):
    (tmp_path / "list.txt").write_text("# why\nb.png\n\n  a.png  \n")

    assert read_photo_list(tmp_path / "list.txt") == ("b.png", "a.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# nothing\n", "names no photo"),
        (b"images/a.png\n", "write file names only"),
        (b"a.png\nb.png\na.png\n", "names a.png more than once"),
        (b"\xff\xfe", "no readable list"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(tmp_path, content, message):
    (tmp_path / "list.txt").write_bytes(content)

    with pytest.raises(ModelStoreError, match=message):
        read_photo_list(tmp_path / "list.txt")


def test_a_list_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelStoreError, match=r"absent\.txt: no readable list"):
        read_photo_list(tmp_path / "absent.txt")


def test_exactly_the_listed_photos_are_taken(data):
    photos = read_annotations(data)

    assert [one.path.name for one in listed_photos(photos, ["2.png", "0.png"])] == ["0.png", "2.png"]
    with pytest.raises(ModelStoreError, match=r"2 of 3 listed photos are not in the data: x\.png, y\.png"):
        listed_photos(photos, ["0.png", "y.png", "x.png"])
    with pytest.raises(ModelStoreError, match=r"more than one photo of the data is called 1\.png"):
        listed_photos([*photos, photos[1]], ["1.png"])
