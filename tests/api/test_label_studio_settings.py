"""The settings of the Label Studio adapter: folders, and the server from which images are fetched."""

import json

import pytest
from pydantic import ValidationError
from support.studio_server import LEGACY_TOKEN

from service.settings import Settings


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"URL": "http://studio:8080"}, "needs a token"),
        ({"TOKEN": "a"}, "needs a token"),
        ({"URL": "http://studio", "TOKEN": "a", "TOKEN_FILE": "/run/token"}, "not both"),
        ({"URL": "studio:8080", "TOKEN": "a"}, "must be like"),
        ({"URL": "ftp://studio", "TOKEN": "a"}, "must be like"),
        ({"URL": "http://user:secret@studio", "TOKEN": "a"}, "must be like"),
        ({"URL": "http://studio/?a=b", "TOKEN": "a"}, "must be like"),
        ({"URL": "http:///path", "TOKEN": "a"}, "must be like"),
        ({"URL": "http://studio:99999", "TOKEN": "a"}, "label_studio_url"),
    ],
)
def test_a_setting_that_cannot_work_ends_the_start(monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(f"EDGESAM_LABEL_STUDIO_{name}", value)

    with pytest.raises(ValidationError, match=message):
        Settings()


def test_the_token_is_not_shown_with_the_settings(monkeypatch):
    monkeypatch.setenv("EDGESAM_LABEL_STUDIO_URL", "https://studio.example.com/prefix")
    monkeypatch.setenv("EDGESAM_LABEL_STUDIO_TOKEN", LEGACY_TOKEN)

    assert LEGACY_TOKEN not in repr(Settings())


def test_folders_are_separated_as_in_path_or_are_a_json_list(monkeypatch, tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "with:colon")]
    for folder in folders:
        folder.mkdir()
    values = {
        f"{folders[0]}": folders[:1],
        f"{folders[0]}:{folders[1]}": folders[:2],
        json.dumps([str(folder) for folder in folders]): folders,
        str(folders[2]): folders[2:],
        "": [],
    }
    for value, expected in values.items():
        monkeypatch.setenv("EDGESAM_LABEL_STUDIO_FILES", value)
        assert Settings().label_studio_files == expected
    for value in (f"{folders[0]}:/nowhere", '["/nowhere"]', "[", "[1]"):
        monkeypatch.setenv("EDGESAM_LABEL_STUDIO_FILES", value)
        with pytest.raises(ValidationError, match="label_studio_files"):
            Settings()
